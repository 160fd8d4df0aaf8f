"""What becomes of attempts whose daemon, host, keeper or journal is lost."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import anyio
import anyio.from_thread
import pytest

from fusemld.daemon.patience import patiently
from fusemld.executors.process.folders import AttemptFolder
from fusemld.executors.process.recovery import JOURNAL_LOST
from fusemld.executors.process.spawning import start_ticks
from fusemld.hooks.executors import AttemptFinished, MountedCodeset
from fusemld.hooks.processes import Observer, ProcessEnded, ProcessRequest, ProcessStarted
from fusemld.model.errors import UnavailableError
from fusemld.model.run import Ending
from tests.executors.process.bench import Bench, BenchFactory, key, shell
from tests.executors.process.conftest import HostFactory

Until = Callable[[Callable[[], bool]], Awaitable[None]]


async def test_the_next_daemon_takes_up_what_ran_and_hears_what_ended(
    bench: BenchFactory, state: Path, until: Until
) -> None:
    gate = state / "gate"
    os.mkfifo(gate)
    async with bench(shut_down=False) as opened:
        await opened.shell("exit 3", step="ended")
        script = f'read x < {gate}; echo value > "$FUSEML_RESULTS_DIR/out"'
        await opened.executor.launch(shell(script, step="runs", outputs=("out", "missing")))
        await opened.executor.launch(shell("sleep 1000", step="unwanted"))

    async with bench(key("ended"), key("runs"), key("never")) as opened:
        await opened.executor.launch(shell("exit 5", step="runs", outputs=("out", "missing"), recovered=True))
        gate.write_text("go\n")

        assert opened.recovered == {key("ended"), key("runs")}
        assert (await opened.finished(key("ended"))).outcome.exit_status == 3
        runs = await opened.finished(key("runs"))
        assert runs.outcome.ending is Ending.OUTPUT_MISSING
        assert "did not write its output missing" in runs.outcome.message
        await until(lambda: not (state / "attempts" / "run-1.unwanted.1").exists())
        assert not any(report.key.step == "unwanted" for report in opened.reports)


async def test_the_next_daemon_reads_the_long_outputs_that_the_last_one_has_left(
    bench: BenchFactory, state: Path, until: Until
) -> None:
    done = state / "done"
    async with bench(shut_down=False) as opened:
        wait = f"until test -e {state}/gate; do sleep 0.01; done"
        give = f"head -c 99999 /dev/zero > $FUSEML_RESULTS_DIR/out; touch {done}"
        await opened.executor.launch(shell(f"{wait}; {give}", outputs=("out",)))
    (state / "gate").touch()
    await until(done.exists)

    async with bench(key(), shut_down=False) as opened:
        assert opened.recovered == {key()}
        assert (await opened.finished(key())).outputs == {"out": "\0" * 99999}
    async with bench(key()) as opened:
        assert (await opened.finished(key())).outputs == {"out": "\0" * 99999}


async def test_what_ends_while_the_next_daemon_finds_out_what_there_is_has_ended(
    bench: BenchFactory, host: HostFactory, state: Path, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = state / "gate"
    os.mkfifo(gate)
    async with bench(shut_down=False) as opened:
        for step in ("waited-for", "unwanted"):
            await opened.executor.launch(shell(f"read x < {gate}", step=step))

    async with host() as running, anyio.create_task_group() as tasks:
        made = Bench(state, running.keeper, sandbox="off")
        found = await running.keeper.known("step/")
        asked = running.keeper.known

        async def known(prefix: str) -> Sequence[ProcessStarted | ProcessEnded]:
            answer = await asked(prefix)
            gate.write_text("go\ngo\n")
            for event in found:
                await running.end(event.key)
            return answer

        with monkeypatch.context() as patched:
            patched.setattr(running.keeper, "known", known)
            await tasks.start(made.executor.run, made.report)
            recovered = await made.executor.recover([key("waited-for")])

        assert len(found) == 2
        assert recovered == {key("waited-for")}
        assert (await made.finished(key("waited-for"))).outcome.ending is Ending.SUCCEEDED
        assert {report.key.step for report in made.reports} == {"waited-for"}
        await until(lambda: not (state / "attempts" / "run-1.unwanted.1").exists())
        tasks.cancel_scope.cancel()


async def test_after_a_crash_of_the_host_an_attempt_without_a_claim_is_lost_for_good(
    bench: BenchFactory, state: Path
) -> None:
    async with bench():
        pass
    boot = state / "attempts" / "boot.json"
    boot.write_text('{"boot":"another","lost":[]}')

    for _daemon in range(2):
        async with bench(key("gone")) as opened:
            assert (await opened.finished(key("gone"))).outcome.ending is Ending.LOST
    async with bench(key("not-launched-since")) as opened:
        assert opened.reports == []


async def test_attempts_of_a_run_that_nobody_can_judge_go_on_and_are_there_for_who_can(
    bench: BenchFactory, state: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    async with bench(shut_down=False) as opened:
        await opened.executor.launch(shell(f"read line < {gate}; echo done", step="goes-on"))
        await opened.shell("exit 3", step="has-ended")
    (state / "attempts" / "run-1.not-begun.1").mkdir()

    async with bench(spared={"run-1"}, shut_down=False) as judging:
        assert judging.recovered == frozenset()
        assert (await judging.finished(key("has-ended"))).outcome.exit_status == 3
    gate.write_text("go\n")
    async with bench(key("goes-on"), key("has-ended")) as able:
        goes_on, has_ended = await able.finished(key("goes-on")), await able.finished(key("has-ended"))

    assert goes_on.outcome.ending is Ending.SUCCEEDED
    assert has_ended.outcome.exit_status == 3


async def test_after_a_crash_of_the_host_an_attempt_of_a_run_that_nobody_could_judge_is_lost_too(
    bench: BenchFactory, state: Path
) -> None:
    async with bench():
        pass
    boot = state / "attempts" / "boot.json"
    boot.write_text('{"boot":"another","lost":[]}')

    async with bench(spared={"run-1"}):
        pass
    async with bench(key("gone")) as opened:
        assert (await opened.finished(key("gone"))).outcome.ending is Ending.LOST


async def test_when_the_keeper_is_killed_the_attempt_is_lost(
    bench: BenchFactory, state: Path, kill_keeper: Callable[[Path], None]
) -> None:
    async with bench() as opened:
        await opened.executor.launch(shell("sleep 1000"))

        kill_keeper(state)
        finished = await opened.finished(key())

        assert finished.outcome.ending is Ending.LOST
        assert "keeper" in finished.outcome.message


async def test_when_the_journal_of_the_keeper_is_lost_so_are_attempts_and_nothing_is_left_of_them(
    bench: BenchFactory, state: Path, tmp_path: Path, kill_keeper: Callable[[Path], None], until: Until
) -> None:
    pids = tmp_path / "pids"
    async with bench() as opened:
        await opened.shell("exit 3", step="ended")
        await opened.executor.launch(shell(f"setsid sleep 1000 & echo $! $$ > {pids}; sleep 1000"))
        await until(lambda: pids.exists() and bool(pids.read_text()))

        (state / "keeper" / "journal").unlink()
        kill_keeper(state)
        outcome = (await opened.finished(key())).outcome

        assert (outcome.ending, outcome.message) == (Ending.LOST, JOURNAL_LOST)
        assert not any(start_ticks(int(pid)) for pid in pids.read_text().split())
        assert await opened.executor.unknown([key(), key("ended")]) == frozenset()
        assert [report.key for report in opened.reports if isinstance(report, AttemptFinished)] == [
            key("ended"),
            key(),
        ]


async def test_attempts_of_a_journal_that_was_lost_between_two_daemons_are_lost_for_good(
    bench: BenchFactory, state: Path, tmp_path: Path, kill_keeper: Callable[[Path], None], until: Until
) -> None:
    pid = tmp_path / "pid"
    async with bench(shut_down=False) as opened:
        await opened.executor.launch(shell(f"echo $$ > {pid}; sleep 1000"))
        await until(lambda: pid.exists() and bool(pid.read_text()))
    (state / "keeper" / "journal").unlink()
    kill_keeper(state)

    for _daemon in range(2):
        async with bench(key()) as opened:
            outcome = (await opened.finished(key())).outcome
            assert (outcome.ending, outcome.message) == (Ending.LOST, JOURNAL_LOST)
            assert opened.recovered == {key()}
            assert not start_ticks(int(pid.read_text()))
    async with bench(key("not-launched-since")) as opened:
        assert opened.reports == []


async def test_attempts_of_a_journal_that_came_in_place_of_a_lost_one_and_was_lost_too_are_lost(
    bench: BenchFactory, state: Path, tmp_path: Path, kill_keeper: Callable[[Path], None], until: Until
) -> None:
    pid = tmp_path / "pid"
    async with bench(shut_down=False) as opened:
        await opened.executor.launch(shell("sleep 1000", step="first"))
        (state / "keeper" / "journal").unlink()
        kill_keeper(state)
        await opened.finished(key("first"))
        launch = shell(f"echo $$ > {pid}; sleep 1000", step="second")
        with anyio.fail_after(30):
            await patiently(lambda: opened.executor.launch(launch), lambda _: None)
        await until(lambda: pid.exists() and bool(pid.read_text()))

    async with bench(key("first"), key("second"), shut_down=False) as opened:
        assert (await opened.finished(key("first"))).outcome.message == JOURNAL_LOST
        assert opened.recovered == {key("first"), key("second")}
        assert start_ticks(int(pid.read_text()))
    (state / "keeper" / "journal").unlink()
    kill_keeper(state)
    async with bench(key("second")) as opened:
        assert (await opened.finished(key("second"))).outcome.message == JOURNAL_LOST
        assert not start_ticks(int(pid.read_text()))


async def test_a_copy_of_a_state_folder_without_its_keeper_gives_attempts_up_and_ends_nothing_of_the_original(
    bench: BenchFactory, state: Path, tmp_path: Path, until: Until
) -> None:
    pid, copy = tmp_path / "pid", tmp_path / "copy"
    async with bench() as original:
        await original.executor.launch(shell(f"echo $$ > {pid}; sleep 1000"))
        await until(lambda: pid.exists() and bool(pid.read_text()))
        shutil.copytree(state, copy, ignore=shutil.ignore_patterns("keeper"))

        async with bench(key(), folder=copy) as copied:
            outcome = (await copied.finished(key())).outcome

        assert (outcome.ending, outcome.message) == (Ending.LOST, JOURNAL_LOST)
        assert start_ticks(int(pid.read_text()))
        assert not any(isinstance(report, AttemptFinished) for report in original.reports)


async def test_attempts_of_a_journal_that_only_a_later_keeper_has_named_are_lost_with_it(
    bench: BenchFactory,
    host: HostFactory,
    state: Path,
    lose_journal: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A keeper of an earlier release was there when the daemon began."""
    async with host(shut_down=False) as running, anyio.create_task_group() as tasks:
        made = Bench(state, running.keeper, sandbox="off")
        await tasks.start(made.executor.run, made.report)
        with monkeypatch.context() as earlier:
            earlier.setattr(running.keeper, "journal", "")
            await made.executor.recover(())
        await made.executor.launch(shell("sleep 1000"))
        tasks.cancel_scope.cancel()
    lose_journal(state)

    async with bench(key()) as opened:
        assert (await opened.finished(key())).outcome.message == JOURNAL_LOST


async def test_what_a_keeper_whose_journal_lacks_lines_does_not_know_is_unknown(
    bench: BenchFactory, state: Path, kill_keeper: Callable[[Path], None]
) -> None:
    gates = {step: state / f"gate-{step}" for step in ("before", "after")}
    for gate in gates.values():
        os.mkfifo(gate)
    after = shell(f"read x < {gates['after']}", step="after")
    keys = [key("before"), key("ended"), key("after"), key("never")]
    async with bench() as opened:
        await opened.executor.launch(shell(f"read x < {gates['before']}", step="before"))
        await opened.shell("exit 3", step="ended")
        at_first = await opened.executor.unknown(keys)

        journal = state / "keeper" / "journal"
        journal.write_bytes(journal.read_bytes().partition(b"\n")[0] + b"\n")
        kill_keeper(state)
        with anyio.fail_after(30):
            await patiently(lambda: opened.executor.launch(after), lambda _: None)
        later = await opened.executor.unknown(keys)
        for gate in gates.values():
            gate.write_text("go\n")

        assert at_first == {key("after"), key("never")}
        assert later == {key("before"), key("never")}
        assert (await opened.finished(key("after"))).outcome.ending is Ending.SUCCEEDED


class ProcessesDouble:
    """Stands in for the keeper: it dies while it takes the first request, and loses its journal when told so."""

    journal = "journal"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._observers: list[Observer] = []

    def lose(self, name: str) -> None:
        for observer in self._observers:
            observer(ProcessEnded(key=name, at=1.0, lost=JOURNAL_LOST))

    async def spawn(self, request: ProcessRequest) -> None:
        self.asked.append(request.key)
        if len(self.asked) == 1:
            raise UnavailableError("it went away")

    async def stop(self, key: str, grace_s: float) -> None:
        pass

    async def forget(self, key: str) -> None:
        pass

    async def known(self, prefix: str) -> Sequence[ProcessStarted | ProcessEnded]:
        return ()

    def observe(self, prefix: str, observer: Observer) -> None:
        self._observers.append(observer)

    async def close_listener(self, name: str) -> None:
        pass


@pytest.mark.parametrize("is_forgotten", [False, True])
async def test_an_attempt_that_is_lost_while_it_is_prepared_once_more_is_not_started(
    state: Path,
    codeset: MountedCodeset,
    monkeypatch: pytest.MonkeyPatch,
    until: Until,
    is_forgotten: bool,
) -> None:
    keeper = ProcessesDouble()
    made = Bench(state, keeper, sandbox="off")
    launch = shell("sh train.sh", codesets=(codeset,))
    prepare = AttemptFolder.prepare

    def slowly(folder: AttemptFolder, codesets: Iterable[MountedCodeset], has_outputs: bool) -> None:
        prepare(folder, codesets, has_outputs)
        anyio.from_thread.run_sync(keeper.lose, f"step/{launch.key}")
        if is_forgotten:
            anyio.from_thread.run(made.executor.forget, launch.key)
            while folder.tmp.exists():
                time.sleep(0.001)
            prepare(folder, codesets, has_outputs)

    async with anyio.create_task_group() as tasks:
        await tasks.start(made.executor.run, made.report)
        await made.executor.recover(())
        with pytest.raises(UnavailableError):
            await made.executor.launch(launch)
        monkeypatch.setattr(AttemptFolder, "prepare", slowly)
        await made.executor.launch(launch)
        if not is_forgotten:
            await made.executor.forget(launch.key)
        await until(lambda: [path.name for path in (state / "attempts").iterdir()] == ["boot.json"])
        tasks.cancel_scope.cancel()

    assert len(keeper.asked) == 1
    assert [report.outcome.message for report in made.reports if isinstance(report, AttemptFinished)] == [
        JOURNAL_LOST
    ]
