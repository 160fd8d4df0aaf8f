"""The supervisor over a real store: what is safe before what is done, and whom a failure concerns."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import anyio
import immutables
import pytest
from msgspec.structs import replace

from fusemld.engine import effects, events
from fusemld.engine.events import StepFinished, StepStarted
from fusemld.model.document import Document
from fusemld.model.errors import ConflictError, NotFoundError
from fusemld.model.run import AttemptKey, Ending, Outcome, RunState, StepRun, StepState
from fusemld.store.changes import Change, PutMeta, PutRun
from fusemld.store.errors import StoreError
from fusemld.store.keys import CLOCK
from fusemld.store.sqlite import Store
from tests.daemon.running import Clock, Engine, OpenEngine, document_of

SUCCEEDED = Outcome(ending=Ending.SUCCEEDED)
FAILED = Outcome(ending=Ending.PROGRAM_FAILED, exit_status=3)


DAY_S = 86400.0


def finished(step: str, outcome: Outcome = SUCCEEDED, attempt: int = 1, **outputs: str) -> StepFinished:
    return StepFinished(at=1001.0, step=step, attempt=attempt, outcome=outcome, outputs=outputs)


def step_one(running: Engine, run_id: str = "r1") -> StepRun:
    run = running.supervisor.find(run_id)
    assert run is not None
    return run.steps["one"]


def left_s(running: Engine, run_id: str) -> float:
    """How long its first step may take from now on."""
    deadline = step_one(running, run_id).deadline
    assert deadline is not None
    return deadline - running.clock()


async def to_the_end(running: Engine, run: str = "r1", outcome: Outcome = SUCCEEDED, attempt: int = 1) -> None:
    running.supervisor.post(run, finished("one", outcome, attempt, number="1"))
    if outcome is SUCCEEDED:
        await running.until(lambda: AttemptKey(run, "two", 1) in running.performer.launched())
        running.supervisor.post(run, finished("two"))
    await running.until(lambda: running.supervisor.find(run) is None)


async def test_what_is_done_is_safe_before_it_is_done(engine: OpenEngine, chain: Document, tmp_path: Path) -> None:
    seen: list[str] = []

    def look(run: str, effect: effects.AnyEffect) -> None:
        """As another process would see it."""
        if isinstance(effect, effects.LaunchStep):
            with sqlite3.connect(tmp_path / "fusemld.db") as connection:
                row = connection.execute(
                    "SELECT state FROM steps WHERE run = ? AND name = ?", (run, effect.step)
                ).fetchone()
            connection.close()
            seen.append(row[0])

    async with engine() as running:
        running.performer.on_effect = look
        await running.create(chain)
        await to_the_end(running)

    assert seen == ["starting", "starting"]


async def test_a_run_and_what_belongs_to_it_are_created_together_or_not_at_all(
    engine: OpenEngine, chain: Document
) -> None:
    async with engine() as running:
        run, plan, workflow = running.run_of(chain)
        await running.supervisor.create(run, plan, (workflow, PutMeta("with", "r1")))

        with pytest.raises(ConflictError, match="cannot change run r1"):
            await running.supervisor.create(run, plan, (PutMeta("with", "again"),))

        assert await running.store.meta("with") == "r1"
        assert [key.step for key in running.performer.launched()] == ["one"]


async def test_a_new_run_that_the_store_refuses_is_answered_and_leaves_nothing(
    engine: OpenEngine, chain: Document
) -> None:
    async with engine(1) as running:
        taken, plan, workflow = running.run_of(chain, "taken")
        await running.store.write(workflow, PutRun(replace(taken, finished_at=1.0, state=RunState.FAILED)))

        with pytest.raises(ConflictError, match="UNIQUE"):
            await running.supervisor.create(taken, plan)
        await running.create(chain, "other")

        assert running.supervisor.find("taken") is None
        assert running.supervisor.slots_held == 1, "the slot of the refused run is free again"
        assert running.performer.launched() == [AttemptKey("other", "one", 1)]


async def test_events_that_come_together_are_committed_together(engine: OpenEngine, chain: Document) -> None:
    async with engine() as running:
        for number in range(50):
            await running.create(chain, f"r{number}")
        before = running.store.commits

        for number in range(50):
            running.supervisor.post(f"r{number}", finished("one", number="1"))
        await running.until(lambda: len(running.performer.launched()) == 100)

        assert running.store.commits - before <= 2


async def test_an_end_is_forgotten_only_when_it_is_recorded(engine: OpenEngine, chain: Document) -> None:
    async with engine() as running:
        await running.create(chain)

        running.supervisor.post("r1", finished("one", number="1"))
        await running.until(lambda: bool(running.performer.safe))

        assert running.performer.safe == [AttemptKey("r1", "one", 1)]
        assert (await running.stored()).steps["one"].state is StepState.SUCCEEDED


async def test_the_late_end_of_an_attempt_of_a_run_that_is_over_can_be_forgotten(
    engine: OpenEngine, chain: Document
) -> None:
    async with engine() as running:
        await running.create(chain)
        await to_the_end(running)

        running.supervisor.post("r1", finished("one", FAILED))
        await running.create(chain, "r2")

        assert running.performer.safe[-1] == AttemptKey("r1", "one", 1)
        assert (await running.stored()).state is RunState.SUCCEEDED


async def test_a_start_waits_for_company_and_is_recorded_all_the_same(engine: OpenEngine, chain: Document) -> None:
    async with engine() as running:
        await running.create(chain)
        before = running.store.commits

        running.supervisor.post("r1", StepStarted(at=1000.5, step="one", attempt=1))
        running.supervisor.post("r1", finished("one", number="1"))
        await running.until(lambda: len(running.performer.launched()) == 2)
        together = running.store.commits - before
        running.supervisor.post("r1", StepStarted(at=1000.5, step="two", attempt=1))
        await running.until(lambda: running.supervisor.active["r1"].run.steps["two"].state is StepState.RUNNING)

        assert together == 1
        assert (await running.stored()).steps["one"].attempts[0].started_at == 1000.5


async def test_a_restart_goes_on_where_the_store_says(engine: OpenEngine, chain: Document) -> None:
    async with engine() as first:
        await first.create(chain)
        await first.create(chain, "r2")
        first.supervisor.post("r1", finished("one", number="1"))
        await first.until(lambda: len(first.performer.launched()) == 3)

    async with engine(1) as second:
        recovered = second.performer.recovered
        launched = second.performer.launched()
        held = second.supervisor.slots_held

    assert recovered == [
        ("r1", effects.LaunchStep(step="two", attempt=1)),
        ("r2", effects.LaunchStep(step="one", attempt=1)),
    ]
    assert launched == []
    assert held == 2


async def test_a_step_waits_for_a_slot_and_says_where_it_stands(engine: OpenEngine, chain: Document) -> None:
    async with engine(1) as running:
        for number in range(3):
            await running.create(chain, f"r{number}")

        assert running.supervisor.queued("r0", "one") is None
        full = "the only slot is taken (limits.steps = 1)"
        assert running.supervisor.queued("r1", "one") == f"next in line; {full}"
        assert running.supervisor.queued("r2", "one") == f"1 step before it; {full}"


async def test_a_deadline_is_an_event(engine: OpenEngine, clock: Clock) -> None:
    document = document_of(
        'name: slow\nsteps:\n  - {name: one, image: host, command: ["sleep", "9"], timeout: 30s}\n'
    )
    async with engine() as running:
        await running.create(document)

        clock.now += 31
        await running.create(document, "later")
        running.supervisor._timers.set("wake", "up", 1.0)
        await running.until(lambda: any(isinstance(e, effects.KillStep) for _, e in running.performer.effects))

        kill = effects.KillStep(step="one", attempt=1, ending=Ending.TIMED_OUT)
        assert ("r1", kill) in running.performer.effects


async def test_a_run_that_ended_goes_on_from_what_failed_when_somebody_asks(
    engine: OpenEngine, chain: Document
) -> None:
    async with engine() as running:
        await running.create(chain)
        running.supervisor.post("r1", finished("one", number="1"))
        await running.until(lambda: len(running.performer.launched()) == 2)
        running.supervisor.post("r1", finished("two", FAILED))
        await running.until(lambda: running.supervisor.find("r1") is None)

        await running.supervisor.request("r1", events.RetryRequested(at=1002.0, by="ann"))

        run = await running.stored()
        assert run.state is RunState.RUNNING
        assert run.steps["one"].state is StepState.SUCCEEDED
        assert running.performer.launched()[-1] == AttemptKey("r1", "two", 2)


async def test_of_two_who_ask_at_once_for_the_same_retry_one_is_told_that_it_runs(
    engine: OpenEngine, chain: Document
) -> None:
    refused: list[str] = []

    async def ask(running: Engine, by: str) -> None:
        try:
            await running.supervisor.request("r1", events.RetryRequested(at=1002.0, by=by))
        except ConflictError as error:
            refused.append(str(error))

    async with engine() as running:
        await running.create(chain)
        await to_the_end(running, outcome=FAILED)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, running, "ann")
            tasks.start_soon(ask, running, "bob")

        assert refused == ["cannot retry run r1: it is running, neither failed nor cancelled"]
        assert running.performer.launched().count(AttemptKey("r1", "one", 2)) == 1


async def test_a_retry_that_crosses_the_end_of_its_run_is_not_lost(engine: OpenEngine, chain: Document) -> None:
    async with engine() as running:
        await running.create(chain)
        running.supervisor.post("r1", finished("one", FAILED))

        await running.supervisor.request("r1", events.RetryRequested(at=1002.0))

        assert running.performer.launched()[-1] == AttemptKey("r1", "one", 2)


@pytest.mark.parametrize(
    ("event", "run", "error", "message"),
    [
        (events.CancelRequested(at=1.0), "r1", ConflictError, r"cannot cancel run r1: it has ended already"),
        (events.RetryRequested(at=1.0), "r1", ConflictError, r"cannot retry run r1: it is succeeded"),
        (events.RetryRequested(at=1.0), "nobody", NotFoundError, r"there is no such run"),
    ],
)
async def test_a_wish_that_cannot_be_granted_is_refused_with_the_reason(
    engine: OpenEngine,
    chain: Document,
    event: events.CancelRequested | events.RetryRequested,
    run: str,
    error: type[Exception],
    message: str,
) -> None:
    async with engine() as running:
        await running.create(chain)
        await to_the_end(running)

        with pytest.raises(error, match=message):
            await running.supervisor.request(run, event)


async def test_a_bug_in_one_run_stops_that_run_only(engine: OpenEngine, chain: Document) -> None:
    async with engine(1) as running:
        await running.create(chain, "bad")
        await running.create(chain, "good")

        running.supervisor.post("bad", finished("no such step"))
        with pytest.raises(ConflictError, match="it is broken: cannot apply StepFinished"):
            await running.supervisor.request("bad", events.CancelRequested(at=1.0))
        running.supervisor.post("bad", finished("one", number="1"))
        await running.until(lambda: bool(running.performer.launched()[1:]))

        assert "there is no step 'no such step'" in (running.supervisor.active["bad"].broken or "")
        assert running.performer.launched() == [AttemptKey("bad", "one", 1), AttemptKey("good", "one", 1)]
        assert running.performer.safe == [], "the end stays with the executor"
        assert (await running.stored("bad")).steps["one"].state is StepState.STARTING


async def test_a_run_that_contradicts_the_store_stops_alone(
    engine: OpenEngine, chain: Document, tmp_path: Path
) -> None:
    async with engine() as running:
        await running.create(chain, "bad")
        await running.create(chain, "good")
        with sqlite3.connect(tmp_path / "fusemld.db") as connection:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("DELETE FROM runs WHERE id = 'bad'")
        connection.close()

        running.supervisor.post("bad", finished("one", number="1"))
        running.supervisor.post("good", finished("one", number="1"))
        await running.until(lambda: len(running.performer.launched()) == 3)

        assert running.performer.launched()[-1] == AttemptKey("good", "two", 1)
        assert running.performer.safe == [AttemptKey("good", "one", 1)]
        assert "FOREIGN KEY" in (running.supervisor.active["bad"].broken or "")


async def test_a_run_that_cannot_be_loaded_is_kept_visible_and_its_attempts_alive(
    engine: OpenEngine, chain: Document
) -> None:
    async with engine() as first:
        await first.create(chain, "good")
        run, _, _ = first.run_of(chain, "bad")
        active = replace(run.steps["one"], state=StepState.RUNNING)
        bad = replace(run, workflow_digest="unknown", steps=immutables.Map({"one": active}))
        await first.store.write(PutRun(bad))

    async with engine() as second:
        why = second.supervisor.active["bad"].broken or ""
        held = second.supervisor.slots_held
        await to_the_end(second, "good")

    assert "cannot load the workflow" in why
    assert held == 2
    assert [run for run, _ in second.performer.recovered] == ["good"]


class FailingStore(Store):
    """A database on a full disk, as long as `is_full`. (A file system of its own would need privileges.)"""

    is_full = False
    refused = 0

    async def write(self, *changes: Change) -> None:
        if self.is_full:
            self.refused += 1
            raise StoreError("cannot write to the database: database or disk is full (SQLITE_FULL)")
        await super().write(*changes)


async def test_a_full_disk_stops_the_engine_until_there_is_room(
    chain: Document, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusemld.daemon.supervisor.WRITE_RETRY_S", 0.01)
    async with FailingStore.open(tmp_path / "fusemld.db") as store, anyio.create_task_group() as tasks:
        assert isinstance(store, FailingStore)
        running = Engine(store, tasks, clock, None)
        await running.start()
        await running.create(chain)

        store.is_full = True
        running.supervisor.post("r1", finished("one", number="1"))
        with anyio.fail_after(5):
            while store.refused < 3:
                await anyio.lowlevel.checkpoint()
        trouble, launched = running.supervisor.trouble, list(running.performer.launched())
        store.is_full = False
        await running.until(lambda: len(running.performer.launched()) == 2)

        assert trouble == "cannot write to the database: database or disk is full (SQLITE_FULL)"
        assert launched == [AttemptKey("r1", "one", 1)], "nothing is done that is not safe"
        assert running.supervisor.trouble is None
        tasks.cancel_scope.cancel()


async def test_a_clock_that_is_set_forwards_ends_no_step_early(engine: OpenEngine, chain: Document) -> None:
    async with engine() as running:
        await running.create(chain)
        before = (await running.stored()).steps["one"].deadline

        running.clock.set_by(3 * DAY_S)
        running.supervisor.post("r1", events.DeadlinePassed(at=running.clock(), step="one"))
        await running.supervisor.changed.wait(running.supervisor.changed.version)
        stored = await running.stored()

        assert before is not None
        assert stored.steps["one"].deadline == before + 3 * DAY_S
        assert not [effect for _, effect in running.performer.effects if isinstance(effect, effects.KillStep)]
        assert await running.store.meta(CLOCK) == str(running.clock())


async def test_a_clock_that_is_set_back_holds_up_no_step_and_what_was_posted_before_belongs_to_before(
    engine: OpenEngine, chain: Document
) -> None:
    async with engine() as running:
        await running.create(chain)

        running.supervisor.post("r1", finished("one", Outcome(ending=Ending.LOST)))
        running.clock.set_by(-3 * DAY_S)
        await running.until(lambda: step_one(running).state is StepState.BACKOFF)
        again_at = step_one(running).deadline
        running.clock.now += 60.0
        running.supervisor.post("r1", events.DeadlinePassed(at=running.clock(), step="one"))
        await running.until(lambda: len(running.performer.launched()) == 2)

        assert again_at is not None
        assert 0 < again_at - (running.clock() - 60.0) <= 60.0


async def test_a_clock_that_is_set_back_while_a_step_is_admitted_does_not_end_it(
    engine: OpenEngine, chain: Document
) -> None:
    async with engine() as running:
        await running.create(chain)
        timeout_s = left_s(running, "r1")

        running.clock.set_after_s = -3 * DAY_S
        await running.create(chain, "r2")
        running.supervisor.post("r2", events.DeadlinePassed(at=running.clock(), step="one"))
        await running.supervisor.changed.wait(running.supervisor.changed.version)

        assert left_s(running, "r2") == timeout_s
        assert not [effect for _, effect in running.performer.effects if isinstance(effect, effects.KillStep)]


async def test_what_was_stored_under_a_later_clock_waits_no_longer_than_it_was_to_wait(
    engine: OpenEngine, chain: Document, clock: Clock
) -> None:
    async with engine() as first:
        await first.create(chain)
        before = (await first.stored()).steps["one"].deadline
    clock.now -= 900.0

    async with engine() as second:
        await second.until(lambda: step_one(second).since == clock())

        assert before is not None
        assert step_one(second).deadline == before - 900.0


async def test_whoever_watches_a_run_hears_of_every_change(engine: OpenEngine, chain: Document) -> None:
    async with engine() as running:
        await running.create(chain)
        pulse = running.supervisor.watch("r1")
        seen = pulse.version

        running.supervisor.touch("r2")
        assert pulse.version == seen
        running.supervisor.touch("r1")
        assert pulse.version == seen + 1
        await to_the_end(running)

        assert pulse.version > seen + 1
        assert running.supervisor.watch("r1") is pulse


async def test_a_run_that_cannot_be_read_is_left_as_it_is_and_holds_up_no_other(
    engine: OpenEngine, chain: Document, tmp_path: Path
) -> None:
    def write(statement: str) -> None:
        with sqlite3.connect(tmp_path / "fusemld.db") as connection:
            connection.execute(statement)
        connection.close()

    async with engine() as first:
        await first.create(chain, "good")
        await first.create(chain, "bad")
    write("UPDATE steps SET state = 'paused' WHERE run = 'bad' AND name = 'one'")

    async with engine() as second:
        why = second.supervisor.active["bad"].broken or ""
        held = second.supervisor.slots_held
        second.supervisor.post("bad", finished("one"))
        with pytest.raises(ConflictError, match="cannot read the entry 'bad/one' of the table steps"):
            await second.supervisor.request("bad", events.CancelRequested(at=1.0, by="ann"))
        await to_the_end(second, "good")
    write("UPDATE steps SET state = 'starting' WHERE state = 'paused'")
    async with engine() as third:
        pass

    assert "'paused' is not a valid StepState" in why
    assert held == 2
    assert {run for run, _ in (*second.performer.recovered, *second.performer.effects)} == {"good"}
    assert {key.run for key in second.performer.safe} == {"good"}
    assert third.performer.recovered == [("bad", effects.LaunchStep(step="one", attempt=1))]


async def test_an_ended_run_that_cannot_be_read_is_not_retried(
    engine: OpenEngine, chain: Document, tmp_path: Path
) -> None:
    async with engine() as running:
        await running.create(chain)
        await to_the_end(running, outcome=FAILED)
        with sqlite3.connect(tmp_path / "fusemld.db") as connection:
            connection.execute("UPDATE run_details SET data = '{'")
        connection.close()

        with pytest.raises(ConflictError, match="cannot read the entry 'r1' of the table run_details"):
            await running.supervisor.request("r1", events.RetryRequested(at=1.0, by="ann"))

        assert running.supervisor.find("r1") is None
