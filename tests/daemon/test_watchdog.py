"""Each invariant is broken on purpose, and told; what is only on its way is not."""

from __future__ import annotations

import collections
import socket
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
import structlog
from msgspec.structs import replace

from fusemld.daemon.supervisor import ActiveRun
from fusemld.daemon.watchdog import Patience, Watchdog
from fusemld.engine import events
from fusemld.engine.admission import Admission
from fusemld.engine.begin import new_run
from fusemld.engine.plan import Defaults, make_plan
from fusemld.intake.catalog import Catalog
from fusemld.model.errors import UnavailableError
from fusemld.model.progress import Progress
from fusemld.model.run import Attempt, AttemptKey, Ending, Outcome, Run, StepRun, StepState
from fusemld.model.template import literal
from fusemld.model.workflow import Step, Workflow
from fusemld.registry.registry import Registry
from fusemld.store.changes import Change, PutRun
from fusemld.store.errors import StoreError
from fusemld.store.reads import RunQuery
from tests.daemon.running import Clock, OpenEngine, document_of
from tests.daemon.watched import folder_of, scan_of

WIDE = """
name: wide
steps:
  - {name: one, image: host, needs: [], outputs: [{name: number}]}
  - {name: two, image: host, needs: []}
  - {name: three, image: host, needs: [one]}
"""
PLAN = make_plan(
    Workflow(
        name="w",
        steps=(
            Step(name="a", image=literal("i")),
            Step(name="b", image=literal("i")),
            Step(name="c", image=literal("i")),
        ),
    ),
    "digest",
    Defaults(),
)
KEY = AttemptKey("r1", "a", 1)
PATIENCE = Patience(lasts_s=30.0, turn_s=30.0, stops_s=60.0, stands_s=100.0)


class Parts:
    """What a watchdog looks at, with one healthy run: `a` runs, `b` and `c` wait for those before them."""

    def __init__(self) -> None:
        self.clock = Clock(1000.0)
        self.monotonic = Clock(5.0)
        self.trouble: str | None = None
        self.busy_since: float | None = None
        self.admission = Admission(limit=2)
        self.admission.occupy(("r1", "a"), "w")
        self.asked: collections.Counter[str] = collections.Counter()
        self.executors = ("process",)
        self.executor_answers = anyio.Event()
        self.executor_answers.set()
        self.executor_error: UnavailableError | None = None
        self.known = {KEY}
        self.held_by = "executor process"
        self.lost: frozenset[AttemptKey] = frozenset()
        self.pinned: set[str] = set()
        self.stored: list[Run] = []
        self.storage_error: Exception | None = None
        self.storage_answers = anyio.Event()
        self.storage_answers.set()
        self.intake, self.retention = Progress(self.monotonic), Progress(self.monotonic)
        run = new_run(PLAN, id="r1", created_at=900.0, inputs={})
        self.active = {"r1": ActiveRun(replace(run, codesets={}), PLAN)}
        self.step(
            "a",
            state=StepState.RUNNING,
            reason="running",
            deadline=2000.0,
            attempts=(Attempt(number=1, reason="first", launched_at=950.0),),
        )
        self.watchdog = Watchdog(
            self,
            self,
            self,
            (("intake", self.intake), ("retention", self.retention)),
            clock=self.clock,
            monotonic=self.monotonic,
            patience=PATIENCE,
        )

    def knows(self, key: AttemptKey) -> bool:
        return key in self.known

    def holder(self, key: AttemptKey) -> str:
        return self.held_by

    async def unknown(self, executor: str) -> frozenset[AttemptKey]:
        self.asked["executor_answers"] += 1
        await self.executor_answers.wait()
        if self.executor_error is not None:
            raise self.executor_error
        return self.lost

    def pins(self, run: str) -> bool:
        return run in self.pinned

    async def run_count(self, query: RunQuery | None = None) -> int:
        self.asked["storage_answers"] += 1
        await self.storage_answers.wait()
        if self.storage_error is not None:
            raise self.storage_error
        return len(self.stored) or len(self.active)

    async def unfinished_runs(self) -> list[Run]:
        return self.stored

    @property
    def run(self) -> Run:
        return self.active["r1"].run

    def step(self, name: str, **fields: object) -> None:
        changed = replace(self.run.steps[name], **fields)
        self.active["r1"].run = replace(self.run, steps=self.run.steps.set(name, changed))

    async def found(self) -> list[str]:
        """What is told after it has lasted."""
        await self.watchdog.look()
        self.monotonic.now += PATIENCE.lasts_s
        await self.watchdog.look()
        return [str(finding) for finding in self.watchdog.findings]


@pytest.fixture
def parts() -> Parts:
    return Parts()


async def test_of_a_healthy_run_nothing_is_told(parts: Parts) -> None:
    assert await parts.found() == []


def no_reason(parts: Parts) -> None:
    parts.step("a", reason="")


def no_deadline(parts: Parts) -> None:
    parts.step("a", deadline=None)


def deadline_passed(parts: Parts) -> None:
    parts.clock.now = 2000.0


def nothing_left(parts: Parts) -> None:
    for name in "abc":
        parts.step(name, state=StepState.SUCCEEDED)
    parts.admission.release(("r1", "a"))


def unknown_attempt(parts: Parts) -> None:
    parts.known.clear()


TOLD = "run r1: step a: attempt 1 was told to stop at 1970-01-01 00:15:40 UTC"


def told_to_stop(parts: Parts) -> None:
    """And told again just now."""
    parts.step("a", kill_requested=Ending.CANCELLED, since=940.0, deadline=1060.0)


def plugin_told_to_stop(parts: Parts) -> None:
    told_to_stop(parts)
    parts.held_by = "the plugin that runs it in this daemon"


def lost_by_its_executor(parts: Parts) -> None:
    parts.lost = frozenset({KEY})


def executor_out_of_reach(parts: Parts) -> None:
    parts.executor_error = UnavailableError("cannot reach the keeper of processes: it is being started again")


def not_in_line(parts: Parts) -> None:
    parts.admission.release(("r1", "a"))
    parts.step("a", state=StepState.QUEUED)


def waits_for_the_dead(parts: Parts) -> None:
    parts.step("a", state=StepState.FAILED)
    parts.admission.release(("r1", "a"))


def waits_for_nothing(parts: Parts) -> None:
    parts.step("a", state=StepState.SUCCEEDED)
    parts.admission.release(("r1", "a"))


def nobody_pins(parts: Parts) -> None:
    parts.active["r1"].run = new_run(PLAN, id="r1", created_at=900.0, inputs={})
    parts.admission.release(("r1", "a"))


def idle_slot(parts: Parts) -> None:
    parts.step("a", state=StepState.BACKOFF, reason="attempt 2 follows")


def slot_of_nobody(parts: Parts) -> None:
    parts.admission.occupy(("r0", "x"), "w")


def slots_not_given(parts: Parts) -> None:
    parts.admission.request(("r1", "b"), "w")


def forgotten_run(parts: Parts) -> None:
    parts.stored = [parts.run, replace(parts.run, id="r2")]


def blocked_engine(parts: Parts) -> None:
    parts.busy_since = parts.monotonic.now - PATIENCE.turn_s


def unreadable_store(parts: Parts) -> None:
    parts.storage_error = StoreError("cannot read the database: disk I/O error")


def bug_in_the_store(parts: Parts) -> None:
    parts.storage_error = ValueError("no such state")


def bug_in_a_run(parts: Parts) -> None:
    run = replace(parts.run, id="r0")
    parts.active["r0"] = ActiveRun(replace(run, steps=run.steps.delete("a")), PLAN)


def endless_look(parts: Parts) -> None:
    parts.intake.work("looking into the watched folder")
    parts.monotonic.now += PATIENCE.stands_s


def no_more_looks(parts: Parts) -> None:
    parts.intake.rest(10.0)
    parts.monotonic.now += 10.0 + PATIENCE.stands_s


def endless_pass(parts: Parts) -> None:
    parts.retention.work("letting go of logs")
    parts.monotonic.now += 50.0
    parts.retention.step()
    parts.monotonic.now += PATIENCE.stands_s


@pytest.mark.parametrize(
    ("breaks", "told"),
    [
        (no_reason, "run r1: step a: it is running and nothing says why"),
        (no_deadline, "run r1: step a: it is running without a deadline"),
        (
            deadline_passed,
            "run r1: step a: its deadline passed at 1970-01-01 00:33:20 UTC, and nothing has happened",
        ),
        (nothing_left, "run r1: all its steps are over, and it is not"),
        (unknown_attempt, "run r1: step a: attempt 1 is running, and nobody knows of it"),
        (told_to_stop, f"{TOLD}, and executor process has not reported its end"),
        (plugin_told_to_stop, f"{TOLD}, and the plugin that runs it in this daemon has not reported its end"),
        (
            lost_by_its_executor,
            "run r1: step a: attempt 1 is running, and executor process does not know it",
        ),
        (
            executor_out_of_reach,
            "executor process: cannot reach the keeper of processes: it is being started again",
        ),
        (not_in_line, "run r1: step a: it waits for a slot, and is not in the line for one"),
        (waits_for_the_dead, "run r1: step b: it waits for a, which is failed"),
        (waits_for_nothing, "run r1: step b: it waits, and for nothing: it could be started"),
        (nobody_pins, "run r1: step a: it waits for the run's codesets, and nobody fetches them"),
        (idle_slot, "slots: step a of run r1 holds one, and is backoff"),
        (slot_of_nobody, "slots: step x of run r0 holds one, and is over or unknown"),
        (slots_not_given, "slots: there are free ones, and steps that wait for one get none"),
        (forgotten_run, "run r2: it is not over, and nobody works on it"),
        (blocked_engine, "engine: what happened cannot be stored: the database does not answer"),
        (unreadable_store, "store: cannot read the database: disk I/O error"),
        (bug_in_the_store, "store: it cannot be looked at: ValueError: no such state"),
        (bug_in_a_run, "run r0: it cannot be looked at: KeyError: 'a'"),
        (endless_look, "intake: looking into the watched folder does not end"),
        (no_more_looks, "intake: it has stopped: its next turn is overdue"),
        (endless_pass, "retention: letting go of logs does not end"),
    ],
)
async def test_a_broken_invariant_is_told(parts: Parts, breaks: Callable[[Parts], None], told: str) -> None:
    breaks(parts)

    assert await parts.found() == [told]


def still_stopping(parts: Parts) -> None:
    parts.step("a", kill_requested=Ending.CANCELLED, since=parts.clock.now - PATIENCE.stops_s + 1)


def told_to_stop_and_being_recovered(parts: Parts) -> None:
    told_to_stop(parts)
    parts.held_by = ""


def ended_since_its_executor_was_asked(parts: Parts) -> None:
    lost_by_its_executor(parts)
    parts.step("a", state=StepState.BACKOFF, reason="attempt 2 follows")
    parts.admission.release(("r1", "a"))


def an_earlier_attempt_that_its_executor_does_not_know(parts: Parts) -> None:
    parts.lost = frozenset({replace(KEY, attempt=0)})


def attempt_of_a_run_that_is_over(parts: Parts) -> None:
    parts.lost = frozenset({AttemptKey("r0", "a", 1)})


@pytest.mark.parametrize(
    "goes_on",
    [
        still_stopping,
        told_to_stop_and_being_recovered,
        ended_since_its_executor_was_asked,
        an_earlier_attempt_that_its_executor_does_not_know,
        attempt_of_a_run_that_is_over,
    ],
)
async def test_an_attempt_whose_end_is_on_its_way_is_not_suspected(
    parts: Parts, goes_on: Callable[[Parts], None]
) -> None:
    goes_on(parts)

    assert await parts.found() == []


async def test_who_works_slowly_and_who_rests_are_not_suspected(parts: Parts) -> None:
    parts.intake.work("storing what was seen in the watched folder")
    parts.retention.rest(3600.0)

    told = []
    for _ in range(10):
        parts.monotonic.now += PATIENCE.stands_s - 1
        told += await parts.found()
        parts.intake.step()

    assert told == []


async def test_what_is_put_right_in_time_is_not_told(parts: Parts) -> None:
    parts.known.clear()
    await parts.watchdog.look()
    parts.known.add(KEY)
    parts.monotonic.now += 10
    await parts.watchdog.look()
    parts.known.clear()
    parts.monotonic.now += 25
    await parts.watchdog.look()

    assert parts.watchdog.findings == ()


async def test_a_finding_is_logged_once_and_again_when_it_is_gone(parts: Parts) -> None:
    parts.known.clear()

    with structlog.testing.capture_logs() as logs:
        await parts.found()
        await parts.watchdog.look()
        parts.known.add(KEY)
        await parts.watchdog.look()

    message = "step a: attempt 1 is running, and nobody knows of it"
    assert logs == [
        {"event": "invariant.broken", "log_level": "error", "subject": "run r1", "message": message},
        {"event": "invariant.restored", "log_level": "info", "subject": "run r1", "message": message},
    ]
    assert parts.watchdog.findings == ()


async def test_what_is_wrong_with_a_run_is_told_with_that_run(parts: Parts) -> None:
    parts.known.clear()
    await parts.found()

    assert parts.watchdog.of("r1") == ("step a: attempt 1 is running, and nobody knows of it",)
    assert parts.watchdog.of("r2") == ()


@pytest.mark.parametrize(
    ("whose", "told_of_it"),
    [
        ("storage_answers", "store: the database does not answer"),
        ("executor_answers", "executor process: it does not answer"),
    ],
)
async def test_who_does_not_answer_is_told_and_holds_up_no_other_look(
    parts: Parts, whose: str, told_of_it: str
) -> None:
    never = anyio.Event()
    setattr(parts, whose, never)
    parts.known.clear()

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(parts.watchdog.look)
            await anyio.wait_all_tasks_blocked()
            parts.monotonic.now += PATIENCE.lasts_s
        told, asked = parts.watchdog.findings, parts.asked[whose]
        never.set()
    await parts.watchdog.look()

    nobody = "run r1: step a: attempt 1 is running, and nobody knows of it"
    assert [str(finding) for finding in told] == [nobody, told_of_it]
    assert asked == 1, "nor do looks pile up"
    assert [str(finding) for finding in parts.watchdog.findings] == [nobody]


async def test_a_look_that_raises_hides_nothing_else_and_is_logged_once(parts: Parts) -> None:
    bug_in_a_run(parts)
    bug_in_the_store(parts)
    parts.known.clear()

    with structlog.testing.capture_logs() as logs:
        told = await parts.found()

    assert told == [
        "run r1: step a: attempt 1 is running, and nobody knows of it",
        "run r0: it cannot be looked at: KeyError: 'a'",
        "store: it cannot be looked at: ValueError: no such state",
    ]
    assert [log["subject"] for log in logs if log["event"] == "watchdog.failed"] == ["run r0", "store"]


async def test_where_nothing_can_be_stored_neither_runs_nor_tasks_are_blamed(parts: Parts) -> None:
    parts.clock.now = 3000.0
    endless_look(parts)
    parts.trouble = "cannot write to the database: disk is full"

    assert await parts.found() == []


async def test_a_run_that_is_broken_already_is_not_told_twice(parts: Parts) -> None:
    parts.active["r1"].broken = "cannot apply StepFinished"
    parts.known.clear()

    assert await parts.found() == []


async def test_a_blocked_event_loop_is_told_until_the_next_look() -> None:
    parts = Parts()
    clock = Clock(0.0)
    looks = 0
    is_measured = anyio.Event()

    def jumping() -> float:
        """Seven seconds later once: that is how a blocked loop looks."""
        nonlocal looks
        looks += 1
        if looks == 2:
            clock.now += 7.0
        elif looks == 3:
            is_measured.set()
        return clock.now

    watchdog = Watchdog(parts, parts, parts, clock=parts.clock, monotonic=jumping, patience=Patience(beat_s=0.001))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watchdog.run)
        with anyio.fail_after(10):
            await is_measured.wait()
        tasks.cancel_scope.cancel()

    await watchdog.look()
    (finding,) = watchdog.findings
    await watchdog.look()

    assert finding.subject == "event loop"
    assert finding.message.startswith("nothing was done for 7 s")
    assert watchdog.findings == ()


async def test_systemd_gets_signs_of_life_as_long_as_the_loop_turns(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "60000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        received: list[bytes] = []

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(parts.watchdog.run)
            with anyio.fail_after(10):
                while len(received) < 3:
                    await anyio.wait_readable(systemd)
                    received.append(systemd.recv(100))
            tasks.cancel_scope.cancel()

    assert received == [b"WATCHDOG=1"] * 3


async def test_an_engine_at_work_breaks_nothing_between_any_two_events(engine: OpenEngine) -> None:
    async with engine(slots=1) as running:
        supervisor = running.supervisor
        parts = Parts()
        watchdog = Watchdog(supervisor, parts, running.store, clock=running.clock, patience=Patience(lasts_s=0))
        await running.create(document_of(WIDE))

        while (run := supervisor.find("r1")) is not None:
            active = next(step for step in run.steps.values() if step.state.is_active)
            parts.known = {AttemptKey("r1", active.name, active.attempt)}
            await watchdog.look()
            assert watchdog.findings == ()
            seen = supervisor.changed.version
            supervisor.post("r1", _ended(active))
            await supervisor.changed.wait(seen)
        await watchdog.look()

    assert watchdog.findings == ()


def _ended(step: StepRun) -> events.StepFinished:
    return events.StepFinished(
        at=1001.0,
        step=step.name,
        attempt=step.attempt,
        outcome=Outcome(ending=Ending.SUCCEEDED),
        outputs={"number": "1"},
    )


async def test_a_thousand_files_that_are_taken_in_slowly_are_not_suspected(
    parts: Parts, engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine() as running:
        folder = folder_of(running, Catalog(()), Registry())
        folder.progress = parts.intake
        write = running.store.write
        told: list[str] = []

        async def write_slowly(*changes: Change) -> None:
            parts.monotonic.now += PATIENCE.stands_s - PATIENCE.lasts_s - 1
            told.extend(await parts.found())
            await write(*changes)

        monkeypatch.setattr(running.store, "write", write_slowly)
        files = {f"f{number}": f"name: w{number}\nsteps: [{{name: a, image: host}}]" for number in range(1000)}
        await folder.on_scan(scan_of(**files))
        count = await running.store.run_count()
        parts.monotonic.now += 10 * PATIENCE.stands_s
        told += await parts.found()

    assert count == 1000
    assert told == []


async def test_a_run_that_is_stored_and_not_in_memory_is_told(engine: OpenEngine) -> None:
    async with engine() as running:
        run, _, _ = running.run_of(document_of(WIDE), id="lost")
        await running.store.write(PutRun(run))
        parts = Parts()
        watchdog = Watchdog(
            running.supervisor, parts, running.store, clock=running.clock, patience=Patience(lasts_s=0)
        )

        await watchdog.look()

    assert [finding.run for finding in watchdog.findings] == ["lost"]
