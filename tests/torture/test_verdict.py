"""The judge of the campaign sees every kind of broken promise: a campaign without violations means something."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from fusemld.api import views
from fusemld.executors.process.journal import Claimed, Forgotten, Journal
from fusemld.model.run import Ending, RunState, StepState
from tests.torture.verdict import Ledger, damage, judge, left_over, read_ledger
from tests.torture.workload import NO_ROOM, Kind, kinds

(CHAIN,) = (kind for kind in kinds(Path("ledger"), "data") if kind.name == "chain")
AT = views.moment(1)
NOTHING = Ledger(began=Counter(), ended=Counter())


def attempt(number: int, ending: Ending | None, reason: str = "") -> views.AttemptView:
    return views.AttemptView(
        number=number,
        reason=reason or ("first" if number == 1 else "lost"),
        launched_at=AT,
        ended_at=AT if ending else None,
        ending=ending,
    )


def step(name: str, *endings: Ending | None, state: StepState = StepState.SUCCEEDED) -> views.StepView:
    attempts = tuple(attempt(number, ending) for number, ending in enumerate(endings, start=1))
    return views.StepView(name=name, state=state, attempts=attempts)


def chain(*steps: views.StepView, run: str = "r", state: RunState = RunState.SUCCEEDED) -> views.RunView:
    """A run of `chain` for request 0 that went well, but for the steps given."""
    good = {name: step(name, Ending.SUCCEEDED) for name in ("one", "two", "three")}
    return views.RunView(
        id=run,
        workflow="chain",
        project="default",
        executor="process",
        state=state,
        created_at=AT,
        inputs={"number": "0"},
        outputs={"third": "n0-b-c"},
        steps=tuple((good | {one.name: one for one in steps}).values()),
    )


def ledger(*more: str, without: str = "", run: str = "r") -> Ledger:
    """Every step began and ended at its first attempt, but for `without`; `more` began besides."""
    keys = Counter(f"{run}/{name}/1" for name in ("one", "two", "three") if name != without)
    return Ledger(began=keys + Counter(more), ended=keys)


def found(*runs: views.RunView, book: Ledger | None = None, kind: Kind = CHAIN) -> list[tuple[str, str]]:
    return [(one.what, one.where) for one in judge({0: kind}, runs, book or ledger())]


def test_a_run_that_went_as_it_should_breaks_no_promise() -> None:
    assert found(chain()) == []


def test_a_lost_attempt_that_is_repeated_under_a_new_number_breaks_no_promise() -> None:
    repeated = step("two", Ending.LOST, Ending.SUCCEEDED)
    book = Ledger(began=ledger("r/two/2").began, ended=ledger(without="two").ended + Counter(["r/two/2"]))

    assert found(chain(repeated), book=book) == []


def test_a_step_lost_more_often_than_is_repeated_may_fail() -> None:
    lost = step("one", *[Ending.LOST] * 6, state=StepState.FAILED)
    others = [step(name, state=StepState.SKIPPED) for name in ("two", "three")]

    assert found(chain(lost, *others, state=RunState.FAILED), book=NOTHING) == []


def test_an_attempt_that_began_twice_is_a_duplicate() -> None:
    assert found(chain(), book=ledger("r/two/1")) == [("duplicate", "r/two/1")]


def test_a_second_run_of_a_request_is_a_duplicate() -> None:
    book = Ledger(began=ledger().began + ledger(run="s").began, ended=ledger().ended + ledger(run="s").ended)

    assert found(chain(), chain(run="s"), book=book) == [("duplicate", "s")]


def test_a_request_without_a_run_is_lost() -> None:
    assert found(book=NOTHING) == [("lost", "request 0 of chain")]


def test_an_attempt_that_was_started_and_is_not_recorded_is_lost() -> None:
    assert found(chain(), book=ledger("r/two/2")) == [("lost", "r/two/2")]


def test_an_attempt_without_a_recorded_end_is_lost() -> None:
    assert found(chain(step("two", None))) == [("lost", "r/two/1")]


def test_a_run_that_is_not_over_is_stuck() -> None:
    assert found(chain(step("two", None, state=StepState.RUNNING), state=RunState.RUNNING)) == [("stuck", "r")]


@pytest.mark.parametrize(
    ("run", "where"),
    [
        (msgspec.structs.replace(chain(), state=RunState.FAILED), "r"),
        (msgspec.structs.replace(chain(), outputs={"third": "another's"}), "r"),
        (chain(step("two", Ending.SUCCEEDED, state=StepState.SKIPPED)), "r/two"),
        (chain(step("two", Ending.PROGRAM_FAILED)), "r/two/1"),
    ],
    ids=["state", "outputs", "step", "ending"],
)
def test_another_end_than_the_proper_one_is_wrong(run: views.RunView, where: str) -> None:
    assert found(run) == [("wrong", where)]


def test_a_success_that_the_step_itself_knows_nothing_of_is_wrong() -> None:
    assert found(chain(), book=ledger(without="two")) == [("wrong", "r/two/1")]


def test_a_repetition_without_a_reason_is_wrong() -> None:
    two = msgspec.structs.replace(
        step("two"), attempts=(attempt(1, Ending.LOST), attempt(2, Ending.SUCCEEDED, "first"))
    )
    book = Ledger(began=ledger("r/two/2").began, ended=ledger("r/two/2").began)

    assert found(chain(two), book=book) == [("wrong", "r/two/2")]


def test_the_ledger_is_read_as_the_steps_have_written_it(tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    file.write_text("began r/one/1\nbegan r/one/1\nended r/one/1\n")

    assert read_ledger(file) == Ledger(began=Counter({"r/one/1": 2}), ended=Counter({"r/one/1": 1}))


def test_a_step_that_says_the_disk_is_full_may_fail_and_is_not_any_other_failure() -> None:
    def failed(status: int) -> views.StepView:
        one = msgspec.structs.replace(attempt(1, Ending.PROGRAM_FAILED), exit_status=status)
        return views.StepView(name="two", state=StepState.FAILED, attempts=(one,))

    skipped = step("three", state=StepState.SKIPPED)
    book = ledger(without="three")

    assert found(chain(failed(NO_ROOM), skipped, state=RunState.FAILED), book=book) == []
    assert ("wrong", "r") in found(chain(failed(1), skipped, state=RunState.FAILED), book=book)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder as it is when everything has ended."""
    for folder in (
        "attempts", "keeper", "services", "codesets/tmp", "codesets/content/sha256-" + 64 * "0",
        "logs/r", "outputs/r", "logs/services/served-1",
    ):  # fmt: skip
        (tmp_path / folder).mkdir(parents=True)
    for file in (
        "fusemld.db",
        "keeper.json",
        "attempts/boot.json",
        "codesets/content/sha256-" + 64 * "0" + "/words",
        "logs/r/a.1.log",
        "outputs/r/0123",
        "logs/services/served-1/1.log",
    ):
        (tmp_path / file).touch()
    journal = Journal(tmp_path / "keeper" / "journal")
    journal.open()
    journal.claim([Claimed(key="step/r/a/1", at=1.0, log="")])
    journal.add(Forgotten(key="step/r/a/1"))
    journal.commit()
    journal.close()
    return tmp_path


def test_what_belongs_to_a_state_folder_is_not_left_over(state: Path) -> None:
    assert list(left_over(state, {"r/a/1"}, {"r/0123"})) == []


@pytest.mark.parametrize(
    "path",
    [
        "attempts/r.a.1/", "codesets/tmp/x/", "services/served-1/", "keeper/journal.new", "backups/a.db",
        "logs/r/a.2.log", "logs/other/a.1.log", "outputs/r/4567", "outputs/r/.partial",
        "core",
    ],
)  # fmt: skip
def test_what_should_be_gone_is_left_over(state: Path, path: str) -> None:
    if path.endswith("/"):
        (state / path).mkdir()
    else:
        (state / path).parent.mkdir(parents=True, exist_ok=True)
        (state / path).touch()

    assert list(left_over(state, {"r/a/1"}, {"r/0123"})) == [path]


@pytest.mark.parametrize("key", ["step/r/a/2", "service/served-1/3"])
def test_what_the_keeper_still_remembers_is_left_over(state: Path, key: str) -> None:
    journal = Journal(state / "keeper" / "journal")
    journal.open()
    journal.claim([Claimed(key=key, at=1.0, log="")])
    journal.close()

    assert list(left_over(state, {"r/a/1"}, {"r/0123"})) == [f"keeper/journal: {key}"]


def test_a_damaged_database_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.executemany("INSERT INTO t VALUES (?)", [("y" * 3000,)] * 20)
    connection.close()
    whole = damage(file)
    data = bytearray(file.read_bytes())
    data[4096 * 2 : 4096 * 2 + 100] = b"\xff" * 100
    file.write_bytes(data)

    assert whole == ""
    assert damage(file)
