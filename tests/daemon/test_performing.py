"""Attempts on their way to an executor, and what ends them there."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from fusemld.daemon import patience
from fusemld.engine import advance
from fusemld.engine.events import CancelRequested, RetryRequested
from fusemld.hooks.executors import Launch
from fusemld.hooks.steps import StepContext
from fusemld.model.errors import StartError, UnavailableError
from fusemld.model.run import AttemptKey, Ending, RunState, StepState
from fusemld.store.errors import StoreError
from tests.daemon.room import SECRET, OpenRoom, RecordingExecutor, ScriptedStep
from tests.daemon.running import document_of

ONE = AttemptKey("r1", "one", 1)
CANCEL = CancelRequested(at=1003.0, by="ann")

STEERED = document_of("name: steered\nsteps: [{name: one, image: 'steered:1'}]")
PLAIN = document_of('name: plain\nsteps: [{name: one, image: host, command: ["true"]}]')
SECRETIVE = document_of(
    "name: secretive\nsteps: [{name: one, image: host, command: [ls], extensions: [{name: v, product: vault}]}]"
)
MOUNTING = document_of(
    "name: mounting\ninputs: [{name: code, type: codeset}]\n"
    "steps:\n  - name: one\n    image: host\n    command: [ls]\n"
    "    inputs: [{name: code, codeset: {name: '{{ inputs.code }}', path: /project}}]\n"
)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_S", 0.001)
    monkeypatch.setattr(patience, "LONGEST_S", 0.001)


async def test_an_attempt_is_launched_with_what_it_sees_and_its_end_is_recorded(room: OpenRoom) -> None:
    async with room() as running:
        await running.engine.create(SECRETIVE)
        launch = await running.launched(1)
        running.executor.started(ONE)
        running.executor.ended(ONE)
        run = await running.over()

        assert launch.key == ONE
        assert launch.secret_env == {"TOKEN": SECRET}
        assert launch.secrets == {SECRET}
        assert run.state is RunState.SUCCEEDED
        assert [service.extension_id for service in run.steps["one"].services] == ["vault"]
        assert running.performer.activity == {}
        with anyio.fail_after(10):
            await running.executor.has_forgotten.wait()
        assert running.executor.forgotten == [ONE]


async def test_an_end_is_forgotten_by_who_told_of_it_and_one_of_our_own_by_all(
    room: OpenRoom,
) -> None:
    other = RecordingExecutor()

    async def fails(launch: Launch) -> None:
        raise StartError(f"cannot start {launch.key}")

    async with room(others={"other": other}) as running:
        await running.engine.create(PLAIN)
        await running.launched(1)
        running.executor.ended(ONE)
        await running.over()
        with anyio.fail_after(10):
            await running.executor.has_forgotten.wait()
        running.executor.on_launch = fails
        await running.engine.create(PLAIN, id="r2")
        await running.over("r2")
        with anyio.fail_after(10):
            await other.has_forgotten.wait()

        own = AttemptKey("r2", "one", 1)
        assert (running.executor.forgotten, other.forgotten) == ([ONE, own], [own])


# Long outputs

GIVING = document_of(
    "name: giving\noutputs: [{name: all}]\n"
    'steps: [{name: one, image: host, command: ["true"], outputs: [{name: all}]}]'
)
LONG = "x" * 100_000


async def test_long_outputs_are_stored_before_their_step_ends(room: OpenRoom) -> None:
    async with room() as running:
        await running.engine.create(GIVING)
        await running.launched(1)
        running.executor.ended(ONE, all=LONG, undeclared=LONG)
        running.executor.ended(ONE, all=LONG, undeclared=LONG)  # some executors tell it twice
        run = await running.over()

        step = run.steps["one"]
        assert (step.state, step.outputs, run.outputs) == (StepState.SUCCEEDED, {"all": LONG}, {"all": LONG})
        (file,) = running.engine.store.outputs_folder.glob("*/*")
        assert file.name == step.outputs_file
        assert file.stat().st_size < 1.1 * len(LONG)
        with anyio.fail_after(10):
            await running.executor.has_forgotten.wait()
        assert running.executor.forgotten == [ONE]


async def test_other_runs_go_on_while_long_outputs_are_stored_and_it_is_shown_what_they_wait_for(
    room: OpenRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_full = True

    async with room() as running:
        keep = running.engine.store.keep_outputs

        async def full(run: str, outputs: Mapping[str, str]) -> str:
            if is_full:
                raise StoreError("cannot store the outputs: disk is full")
            return await keep(run, outputs)

        monkeypatch.setattr(running.performer, "_parts", replace(running.performer._parts, keep_outputs=full))
        await running.engine.create(GIVING)
        await running.launched(1)
        running.executor.ended(ONE, all=LONG)
        await running.engine.until(lambda: ONE in running.performer.activity)
        await running.engine.create(PLAIN, id="r2")
        await running.launched(2)
        running.executor.ended(AttemptKey("r2", "one", 1))

        assert (await running.over("r2")).state is RunState.SUCCEEDED
        assert running.performer.activity[ONE].startswith("cannot store the outputs: disk is full; trying again")
        assert running.performer.knows(ONE)
        is_full = False
        assert (await running.over()).outputs == {"all": LONG}
        assert running.performer.activity == {}
        assert not running.performer.knows(ONE)


@pytest.mark.parametrize(
    ("name", "limit_bytes", "ending"), [("other", 2**30, Ending.OUTPUT_MISSING), ("all", 1, Ending.OUTPUT_REFUSED)]
)
async def test_outputs_that_do_not_count_are_not_stored(
    room: OpenRoom, monkeypatch: pytest.MonkeyPatch, name: str, limit_bytes: int, ending: Ending
) -> None:
    monkeypatch.setattr(advance, "RUN_BYTES", limit_bytes)
    async with room() as running:
        await running.engine.create(GIVING)
        await running.launched(1)
        running.executor.ended(ONE, Ending.SUCCEEDED, **{name: LONG})
        run = await running.over()

        outcome = run.steps["one"].attempts[0].outcome
        assert outcome is not None
        assert outcome.ending is ending
        assert not running.engine.store.outputs_folder.exists()


@pytest.mark.parametrize(
    "error", [AssertionError("a bug"), PermissionError("not yours"), FileExistsError("a file")]
)
async def test_where_long_outputs_can_never_be_stored_they_go_the_way_of_short_ones(
    room: OpenRoom, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def broken(run: str, outputs: Mapping[str, str]) -> str:
        raise error

    async with room() as running:
        monkeypatch.setattr(running.performer, "_parts", replace(running.performer._parts, keep_outputs=broken))
        await running.engine.create(GIVING)
        await running.launched(1)
        running.executor.ended(ONE, all=LONG)

        assert (await running.over()).outputs == {"all": LONG}


async def test_an_image_is_not_longer_than_a_name(room: OpenRoom) -> None:
    long = document_of(
        "name: long\ninputs: [{name: x, default: '" + "x" * 3000 + "'}]\n"
        "steps: [{name: one, image: '{{ inputs.x }}{{ inputs.x }}'}]"
    )
    async with room() as running:
        await running.engine.create(long, x="x" * 3000)
        run = await running.over()

        assert (
            "cannot start: cannot render {{ inputs.x }}: with it, the values have more than the 4,096"
            in run.message
        )


async def test_a_message_that_is_as_long_as_a_value_is_shortened(room: OpenRoom) -> None:
    async def fails(launch: Launch) -> None:
        raise StartError("cannot run " + "x" * 100_000 + ": there is no such thing")

    async with room() as running:
        running.executor.on_launch = fails
        await running.engine.create(PLAIN)
        run = await running.over()

        assert len(run.message) < 5000
        assert run.message.startswith("step one failed: cannot start: cannot run xxx")
        assert run.message.endswith("x: there is no such thing")


async def test_a_cancel_while_long_outputs_are_stored_comes_too_late(
    room: OpenRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = anyio.Event()

    async with room() as running:
        keep = running.engine.store.keep_outputs

        async def slow(run: str, outputs: Mapping[str, str]) -> str:
            await gate.wait()
            return await keep(run, outputs)

        monkeypatch.setattr(running.performer, "_parts", replace(running.performer._parts, keep_outputs=slow))
        await running.engine.create(GIVING)
        await running.launched(1)
        running.executor.ended(ONE, all=LONG)
        await running.supervisor.request("r1", CANCEL)
        gate.set()

        run = await running.over()
        assert run.steps["one"].state is StepState.SUCCEEDED
        assert running.executor.kills == [ONE]


async def test_who_is_killed_while_it_is_prepared_was_never_started(room: OpenRoom) -> None:
    async with room() as running:
        running.records_read = anyio.Event()
        await running.engine.create(SECRETIVE)
        await running.engine.until(lambda: ONE in running.performer.activity)

        await running.supervisor.request("r1", CANCEL)
        run = await running.over()

        outcome = run.steps["one"].attempts[0].outcome
        assert outcome is not None
        assert (outcome.ending, outcome.message) == (Ending.CANCELLED, "stopped before it was started")
        assert run.state is RunState.CANCELLED
        assert running.executor.launches == []
        assert running.executor.kills == []
        assert running.performer.activity == {}


async def test_who_may_exist_is_ended_by_its_executor_only(room: OpenRoom) -> None:
    async with room() as running:
        is_reached = False

        async def out_of_reach(launch: Launch) -> None:
            if not is_reached:
                raise UnavailableError("cannot reach the keeper")

        running.executor.on_launch = out_of_reach
        await running.engine.create(PLAIN)
        await running.launched(3)

        await running.supervisor.request("r1", CANCEL)
        with anyio.fail_after(5):
            while not running.executor.kills:
                await anyio.lowlevel.checkpoint()
        still = running.supervisor.active["r1"].run.steps["one"].state
        is_reached = True
        running.executor.ended(ONE, Ending.CANCELLED)
        run = await running.over()

        assert still is StepState.STARTING
        assert running.executor.kills == [ONE]
        assert run.state is RunState.CANCELLED
        assert len({id(launch) for launch in running.executor.launches}) == 1, "it is prepared once"


@pytest.mark.parametrize(
    "error", [StartError(f"cannot start it with {SECRET}"), RuntimeError(f"a bug with {SECRET}")]
)
async def test_why_it_cannot_start_is_said_without_secrets(room: OpenRoom, error: Exception) -> None:
    async with room() as running:

        async def refuse(launch: Launch) -> None:
            raise error

        running.executor.on_launch = refuse
        with capture_logs() as logs:
            await running.engine.create(SECRETIVE)
            run = await running.over()

        outcome = run.steps["one"].attempts[0].outcome
        assert outcome is not None
        assert outcome.ending is Ending.CANNOT_START
        assert outcome.message.endswith("with ***")
        assert "with ***" in run.message
        assert SECRET not in str(logs)


async def test_the_live_line_of_an_attempt_is_masked(room: OpenRoom) -> None:
    async with room() as running:
        lines: list[str] = []

        async def out_of_reach(launch: Launch) -> None:
            lines.append(running.performer.activity.get(ONE, ""))
            if len(lines) < 2:
                raise UnavailableError(f"cannot reach {SECRET}")

        running.executor.on_launch = out_of_reach
        await running.engine.create(SECRETIVE)
        await running.launched(2)

        assert lines[1].startswith("cannot reach ***; trying again at ")


async def test_an_executor_that_is_not_there_fails_the_step_with_those_that_are(room: OpenRoom) -> None:
    document = document_of('name: w\nsteps: [{name: one, image: host, command: ["true"]}]')
    async with room() as running:
        run, plan, workflow = running.engine.run_of(document)
        await running.supervisor.create(replace(run, executor="kubernetes"), plan, (workflow,))
        ended = await running.over()

        assert "no executor 'kubernetes' (it has: process)" in ended.message


async def test_what_goes_wrong_with_one_attempt_stops_no_other(room: OpenRoom) -> None:
    async with room() as running:

        def refuse(key: AttemptKey) -> None:
            raise PermissionError(f"cannot remove the folder of {key}")

        running.executor.on_forget = refuse
        for run in ("r1", "r2"):
            await running.engine.create(PLAIN, run)
            await running.launched(int(run[1]))
            running.executor.ended(AttemptKey(run, "one", 1))
            ended = await running.over(run)

            assert ended.state is RunState.SUCCEEDED


async def test_after_a_restart_what_the_executor_knows_is_not_launched_again(room: OpenRoom) -> None:
    async with room() as first:
        await first.engine.create(PLAIN, "known")
        await first.engine.create(PLAIN, "unknown")
        await first.launched(2)

    async with room(is_started=False) as second:
        second.executor.known = frozenset({AttemptKey("known", "one", 1)})
        await second.start()
        launch = await second.launched(1)
        second.executor.ended(AttemptKey("known", "one", 1))
        await second.over("known")

        assert second.executor.asked_about == [AttemptKey("known", "one", 1), AttemptKey("unknown", "one", 1)]
        assert (launch.key.run, launch.recovered) == ("unknown", True)
        assert len(second.executor.launches) == 1


async def test_an_executor_that_cannot_tell_what_it_knows_is_asked_again_about_what_has_not_ended(
    room: OpenRoom,
) -> None:
    async with room() as first:
        for run in ("known", "ended", "unknown"):
            await first.engine.create(PLAIN, run)
        await first.launched(3)
    known, ended, unknown = (AttemptKey(run, "one", 1) for run in ("known", "ended", "unknown"))
    asked: list[frozenset[AttemptKey]] = []

    async with room(is_started=False) as second:

        def goes_away(keys: Sequence[AttemptKey]) -> None:
            asked.append(frozenset(keys))
            if ended in keys:
                if len(asked) == 1:
                    second.executor.ended(ended)
                raise UnavailableError("cannot reach it: it went away")

        second.executor.known = frozenset({known, ended})
        second.executor.on_recover = goes_away
        with capture_logs() as logs:
            await second.start()
            launch = await second.launched(1)

        assert asked[0] == {known, ended, unknown}
        assert asked[-1] == {known, unknown}
        assert (launch.key, launch.recovered) == (unknown, True)
        assert (await second.over("ended")).state is RunState.SUCCEEDED
        told = [entry for entry in logs if entry["event"] == "executor.not_recovered"]
        assert len(told) == len(asked) - 1
        assert told[0]["error"].startswith("cannot reach it: it went away; trying again at ")


async def test_of_a_run_that_cannot_be_read_every_attempt_is_spared(room: OpenRoom, tmp_path: Path) -> None:
    async with room() as first:
        await first.engine.create(PLAIN)
        await first.launched(1)
    with sqlite3.connect(tmp_path / "fusemld.db") as connection:
        connection.execute("UPDATE steps SET data = '{'")
    connection.close()

    async with room() as second:
        await second.engine.create(PLAIN, id="r2")
        await second.launched(1)

        assert second.executor.spared == {"r1"}
        assert second.executor.asked_about == []
        assert [launch.key.run for launch in second.executor.launches] == ["r2"]


async def test_an_executor_out_of_reach_holds_up_neither_the_daemon_nor_a_cancel(room: OpenRoom) -> None:
    async with room(is_started=False) as running:
        running.executor.reachable = anyio.Event()
        await running.start()
        await running.engine.create(PLAIN, "waits")
        await running.engine.create(PLAIN, "leaves")
        key = AttemptKey("leaves", "one", 1)
        await running.engine.until(lambda: "no answer" in running.performer.activity.get(key, ""))

        await running.supervisor.request("leaves", CANCEL)
        left = await running.over("leaves")
        running.executor.reachable.set()
        launch = await running.launched(1)

        assert left.state is RunState.CANCELLED
        assert launch.key.run == "waits"


async def test_what_an_earlier_daemon_launched_is_stopped_where_it_runs(room: OpenRoom) -> None:
    """Only its executor knows whether it is there, and nobody can ask until it is in reach."""
    async with room() as first:
        await first.engine.create(PLAIN)
        await first.launched(1)

    async with room(is_started=False) as second:
        second.executor.known = frozenset({ONE})
        second.executor.reachable = anyio.Event()
        await second.start()
        await second.supervisor.request("r1", CANCEL)
        second.executor.reachable.set()
        with anyio.fail_after(10):
            while not second.executor.kills:
                await anyio.lowlevel.checkpoint()
        second.executor.ended(ONE, Ending.SIGNALLED)
        run = await second.over()

        assert run.state is RunState.CANCELLED
        assert (second.executor.kills, second.executor.launches) == ([ONE], [])


# What the watchdog asks


async def test_only_attempts_of_an_executor_that_is_not_there_yet_may_still_be_reported_by_it(
    room: OpenRoom,
) -> None:
    there, away = RecordingExecutor(), RecordingExecutor()
    there.name = away.name = "kubernetes"
    away.reachable = anyio.Event()
    async with room(others={"kubernetes": there}) as first:
        for id, executor in (("near", "process"), ("far", "kubernetes")):  # noqa: A001 - the name of the field
            run, plan, workflow = first.engine.run_of(PLAIN, id=id)
            await first.supervisor.create(replace(run, executor=executor), plan, (workflow,))
        await first.launched(1)

    async with room(is_started=False, others={"kubernetes": away}) as second:
        await second.supervisor.load(await second.engine.store.unfinished_runs())
        await second.engine.tasks.start(second.performer.run)
        await anyio.wait_all_tasks_blocked()
        near, far = (AttemptKey(run, "one", 1) for run in ("near", "far"))

        assert [second.performer.knows(key) for key in (near, far)] == [False, True]
        assert [second.performer.holder(key) for key in (near, far)] == ["executor process", ""]


async def test_an_executor_is_asked_about_what_it_has_and_nothing_else(room: OpenRoom) -> None:
    is_in_reach = anyio.Event()

    async def wait(context: StepContext) -> Mapping[str, str]:
        await anyio.sleep_forever()
        raise AssertionError

    async def out_of_reach(launch: Launch) -> None:
        if launch.key.run == "launching":
            await is_in_reach.wait()

    async with room(ScriptedStep(wait)) as running:
        running.executor.on_launch = out_of_reach
        for id, document in (("steered", STEERED), ("launching", PLAIN), ("ended", PLAIN), ("launched", PLAIN)):  # noqa: A001
            await running.engine.create(document, id)
        await running.launched(3)
        await running.step("one", lambda step: step.state is StepState.RUNNING, "steered")
        keys = {run: AttemptKey(run, "one", 1) for run in running.supervisor.active}
        running.executor.lost = frozenset(keys.values())

        running.executor.ended(keys["ended"])
        asked = await running.performer.unknown("process")

        assert asked == {keys["launched"]}
        assert running.performer.holder(keys["steered"]) == "the plugin that runs it in this daemon"


# Codesets


async def test_a_run_mounts_what_it_has_pinned(room: OpenRoom) -> None:
    async with room() as running:
        folder = running.codeset("digits", train="one")
        await running.engine.create(MOUNTING, code="lab/digits")
        mounted = (await running.launched(1)).codesets[0]

        (folder / "train").write_text("two")

        assert (mounted.path, mounted.project, mounted.name) == ("/project", "lab", "digits")
        assert (mounted.source / "train").read_text() == "one"


async def test_a_pinned_copy_that_is_gone_fails_the_step_with_what_to_do(room: OpenRoom) -> None:
    async with room() as running:
        running.codeset("digits", train="one")
        await running.engine.create(MOUNTING, code="lab/digits")
        mounted = (await running.launched(1)).codesets[0]
        running.executor.ended(ONE, Ending.PROGRAM_FAILED)
        await running.over()
        mounted.source.chmod(0o700)
        for file in mounted.source.iterdir():
            file.unlink()
        mounted.source.rmdir()

        await running.supervisor.request("r1", RetryRequested(at=1004.0))
        run = await running.over()

        assert "is gone from the state folder; start a new run" in run.message


async def test_a_codeset_that_does_not_exist_fails_the_run(room: OpenRoom) -> None:
    async with room() as running:
        await running.engine.create(MOUNTING, code="lab/nothing")
        run = await running.over()

        assert run.state is RunState.FAILED
        assert run.message == "cannot use codeset lab/nothing: no file of the watched folder declares it"


async def test_fetching_codesets_ends_with_the_run_and_begins_anew_with_a_retry(room: OpenRoom) -> None:
    private = document_of(
        "{kind: codeset, project: lab, name: private, url: 'https://127.0.0.1:1/x.git', extension: vault}"
    )
    async with room() as running:
        running.codesets[private.name] = private
        running.records_read = anyio.Event()
        await running.engine.create(MOUNTING, code="lab/private")
        await running.engine.until(lambda: "r1" in running.performer.pinning)

        await running.supervisor.request("r1", CANCEL)
        cancelled = await running.over()
        left = dict(running.performer.pinning)
        running.codeset("private", train="one")
        await running.supervisor.request("r1", RetryRequested(at=1004.0))
        launch = await running.launched(1)

        assert cancelled.state is RunState.CANCELLED
        assert left == {}
        assert launch.codesets[0].name == "private"


async def test_what_fetching_codesets_waits_for_is_shown_until_the_run_gives_up(room: OpenRoom) -> None:
    gone = document_of("{kind: codeset, project: lab, name: gone, url: 'http://127.0.0.1:1/x.git'}")
    async with room() as running:
        running.codesets[gone.name] = gone
        await running.engine.create(MOUNTING, code="lab/gone")
        await running.engine.until(lambda: "trying again" in running.performer.pinning.get("r1", ""))

        running.engine.clock.now += 7200
        run = await running.over()

        assert run.state is RunState.FAILED
        assert "127.0.0.1" in run.message
        assert running.performer.pinning == {}
