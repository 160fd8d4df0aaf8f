"""Entries that cannot be read: a newer fusemld wrote them, or something else changed them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import immutables
import pytest
from msgspec.structs import replace

from fusemld.model.application import Application
from fusemld.model.codeset import PinnedCodeset
from fusemld.model.document import DocumentRecord
from fusemld.model.run import Run, RunState, StepRun, StepState
from fusemld.store.changes import Change, PutApplication, PutDocument, PutRun
from fusemld.store.errors import DamagedError
from fusemld.store.reads import DOCUMENTS, DamagedRun, RunQuery
from fusemld.store.sqlite import Store

CODESET = PinnedCodeset(project="p", name="c", version="v", digest="pinned", url="file:///c")


def make_run(id: str, created_at: float) -> Run:  # noqa: A002 - the name of the field
    states = {"a": StepState.SUCCEEDED, "b": StepState.RUNNING}
    return Run(
        id=id,
        workflow="w",
        workflow_digest="d",
        created_at=created_at,
        inputs={"x": "1"},
        codesets={"p/c": CODESET},
        steps=immutables.Map({name: StepRun(name=name, state=state) for name, state in states.items()}),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fusemld.db"


Damage = Callable[..., None]


@pytest.fixture
def damage(path: Path) -> Damage:
    """Execute a statement behind the back of the store."""

    def execute(statement: str, *parameters: object) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            assert connection.execute(statement, parameters).rowcount == 1

    return execute


async def stored(path: Path, *changes: Change) -> None:
    async with Store.open(path) as store:
        await store.write(*changes)


OF_RUNS = {
    "an unknown state of a step": (
        "UPDATE steps SET state = 'paused' WHERE run = 'bad' AND name = 'a'",
        "cannot read the entry 'bad/a' of the table steps: 'paused' is not a valid StepState",
    ),
    "a step that is no JSON": (
        "UPDATE steps SET data = '{' WHERE run = 'bad' AND name = 'a'",
        "cannot read the entry 'bad/a' of the table steps: ",
    ),
    "a step with bytes that are no text": (
        "UPDATE steps SET data = CAST(x'7bff7d' AS TEXT) WHERE run = 'bad' AND name = 'a'",
        "cannot read the entry 'bad/a' of the table steps: ",
    ),
    "details of another shape": (
        "UPDATE run_details SET data = '{\"codesets\": [1]}' WHERE run = 'bad'",
        "cannot read the entry 'bad' of the table run_details: Expected `object | null`, got `array`",
    ),
    "details that are no JSON": (
        "UPDATE run_details SET data = '{' WHERE run = 'bad'",
        "cannot read the entry 'bad' of the table run_details: ",
    ),
    "details that are gone": (
        "DELETE FROM run_details WHERE run = 'bad'",
        "cannot read the entry 'bad' of the table run_details: it is not there",
    ),
    "an unknown state of the run": (
        "UPDATE runs SET state = 'asleep' WHERE id = 'bad'",
        "cannot read the entry 'bad' of the table runs: 'asleep' is not a valid RunState",
    ),
}


@pytest.mark.parametrize("what", OF_RUNS)
async def test_a_run_that_cannot_be_read_is_told_from_those_that_can(
    path: Path, damage: Damage, what: str
) -> None:
    statement, message = OF_RUNS[what]
    await stored(path, PutRun(make_run("good", 1.0)), PutRun(make_run("bad", 2.0)))
    damage(statement)

    async with Store.open(path) as store:
        good, bad = await store.unfinished_runs()
        listed = await store.runs(RunQuery(workflow="w"))
        by_codeset = await store.runs(RunQuery(codeset="p/c"))
        found = await store.run("bad")

    assert good == make_run("good", 1.0)
    assert isinstance(bad, DamagedRun)
    assert bad.damage == bad.message
    assert bad.damage.startswith(message)
    assert bad.state is RunState.RUNNING
    assert bad.steps["b"].state is StepState.RUNNING
    assert listed == [bad, good]
    assert good in by_codeset
    assert found == bad


@pytest.mark.parametrize(
    ("column", "text", "shown"),
    [("state", "paused", StepState.RUNNING), ("data", "{", StepState.SUCCEEDED)],
)
async def test_a_step_of_which_nothing_is_known_may_be_running(
    path: Path, damage: Damage, column: str, text: str, shown: StepState
) -> None:
    await stored(path, PutRun(make_run("bad", 1.0)))
    damage(f"UPDATE steps SET {column} = ? WHERE name = 'a'", text)

    async with Store.open(path) as store:
        (bad,) = await store.unfinished_runs()

    assert bad.steps["a"].state is shown
    assert bad.steps["a"].reason == bad.message


async def test_a_record_that_cannot_be_read_is_named_and_the_others_are_there(path: Path, damage: Damage) -> None:
    good = DocumentRecord(key="workflow/good", file="f")
    await stored(path, PutDocument(good), PutDocument(DocumentRecord(key="workflow/bad", file="f")))
    damage("UPDATE documents SET data = replace(data, 'accepted', 'novel') WHERE key = 'workflow/bad'")
    named = "cannot read the entry 'workflow/bad' of the table documents: Invalid enum value 'novel'"

    async with Store.open(path) as store:
        entries = await store.entries(DOCUMENTS)
        with pytest.raises(DamagedError, match=named):
            await store.documents()

    assert entries.readable == [good]
    assert [str(error).startswith(named) for error in entries.unreadable.values()] == [True]
    assert store.unreadable["documents"] == entries.unreadable


async def test_which_codesets_are_needed_is_unknown_where_a_run_cannot_tell(path: Path, damage: Damage) -> None:
    await stored(path, PutRun(make_run("good", 1.0)), PutRun(make_run("bad", 2.0)))
    damage("UPDATE run_details SET data = '{}}' WHERE run = 'bad'")

    async with Store.open(path) as store:
        with pytest.raises(DamagedError, match="'bad' of the table run_details"):
            await store.pinned_digests(())


async def test_no_run_goes_where_it_may_be_that_of_an_application(path: Path, damage: Damage) -> None:
    ended = replace(make_run("old", 1.0), state=RunState.SUCCEEDED, finished_at=2.0)
    application = Application(name="a", type="t", url="u", run="another")
    await stored(path, PutRun(ended), PutApplication(application))

    async with Store.open(path) as store:
        before = await store.aged_runs(before=10.0, keep=None)
        damage("UPDATE applications SET data = '{'")
        after = await store.aged_runs(before=10.0, keep=None)

    assert (before.going, after.going) == (("old",), ())
