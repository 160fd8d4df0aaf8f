"""Attempts as real processes, with and without a sandbox."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.from_thread
import pytest

from fusemld.daemon.patience import patiently
from fusemld.executors.process.executor import ProcessExecutor
from fusemld.executors.process.folders import AttemptFolder
from fusemld.executors.process.recovery import JOURNAL_LOST
from fusemld.executors.process.settings import ProcessExecutorSettings
from fusemld.executors.process.spawning import start_ticks
from fusemld.hooks.executors import AttemptFinished, AttemptStarted, Launch, MountedCodeset
from fusemld.hooks.processes import Observer, ProcessEnded, Processes, ProcessRequest, ProcessStarted
from fusemld.hooks.steps import LocalCommand, RuntimeFolders, StepInputs
from fusemld.model.errors import StartError, UnavailableError
from fusemld.model.run import AttemptKey, Ending
from tests.acceptance.mishaps import few_descriptors

if TYPE_CHECKING:
    from tests.executors.process.conftest import HostFactory

Until = Callable[[Callable[[], bool]], Awaitable[None]]
NO_BWRAP = "bubblewrap is not installed: apt-get install bubblewrap"
SANDBOXES = [
    "off",
    pytest.param("bwrap", marks=pytest.mark.skipif(shutil.which("bwrap") is None, reason=NO_BWRAP)),
]


class Bench:
    """An executor that is ready, and what it reported."""

    def __init__(self, state: Path, processes: Processes, **more: object) -> None:
        self.state = state
        self.recovered: frozenset[AttemptKey] = frozenset()
        folders = RuntimeFolders(environments=state / "python" / "environments", cache=state / "python" / "cache")
        settings = ProcessExecutorSettings(state=state, **more)  # type: ignore[arg-type] # tests name the fields
        self.executor = ProcessExecutor(processes, {"ghcr.io/x/echo": Echo()}, folders, settings)
        self.reports: list[AttemptStarted | AttemptFinished] = []
        self._changed = anyio.Event()

    def report(self, report: AttemptStarted | AttemptFinished) -> None:
        self.reports.append(report)
        self._changed.set()
        self._changed = anyio.Event()

    async def finished(self, key: AttemptKey) -> AttemptFinished:
        with anyio.fail_after(30):
            while True:
                for report in self.reports:
                    if report.key == key and isinstance(report, AttemptFinished):
                        return report
                await self._changed.wait()

    async def shell(self, script: str, *, step: str = "step", **more: object) -> AttemptFinished:
        launch = shell(script, step=step, **more)
        await self.executor.launch(launch)
        return await self.finished(launch.key)

    def log(self, step: str = "step") -> str:
        return self.executor.log_path(key(step)).read_text()


class Echo:
    """The runtime of a plugin."""

    repositories: tuple[str, ...] = ("ghcr.io/x/echo",)
    inputs = StepInputs()

    def command(self, image: str, folders: RuntimeFolders) -> LocalCommand:
        if image.endswith(":gone"):
            raise StartError(f"cannot run {image}: build it again")
        (folders.environments / "e" / "bin").mkdir(parents=True, exist_ok=True)
        program = folders.environments / "e" / "bin" / "entry"
        program.write_text('#!/bin/sh\necho "$GREETING $*"\n')
        program.chmod(0o755)
        env = {"GREETING": "hello from the image"}
        return LocalCommand(argv=("entry",), env=env, path=(str(program.parent),), folders=(folders.environments,))


def key(step: str = "step", attempt: int = 1) -> AttemptKey:
    return AttemptKey("run-1", step, attempt)


def shell(script: str, *, step: str = "step", **more: object) -> Launch:
    given = {"key": key(step), "image": "host", "command": ("sh", "-c", script)}
    return Launch(**(given | more))  # type: ignore[arg-type] # tests name the fields


@pytest.fixture
def bench(host: HostFactory, state: Path) -> Callable[..., contextlib.AbstractAsyncContextManager[Bench]]:
    @contextlib.asynccontextmanager
    async def ready(
        *keys: AttemptKey,
        spared: Collection[str] = (),
        shut_down: bool = True,
        folder: Path = state,
        **more: object,
    ) -> AsyncIterator[Bench]:
        async with host(folder, shut_down=shut_down) as opened, anyio.create_task_group() as tasks:
            made = Bench(folder, opened.keeper, **({"sandbox": "off"} | more))
            await tasks.start(made.executor.run, made.report)
            made.recovered = await made.executor.recover(keys, spared)
            yield made
            tasks.cancel_scope.cancel()

    return ready


BenchFactory = Callable[..., contextlib.AbstractAsyncContextManager[Bench]]


@pytest.fixture
def codeset(tmp_path: Path) -> MountedCodeset:
    source = tmp_path / "pinned"
    source.mkdir()
    (source / "train.sh").write_text("echo training\n")
    path = "/project"
    return MountedCodeset(path=path, project="prj", name="code", version="1", digest="d", source=source)


@pytest.mark.parametrize("sandbox", SANDBOXES)
async def test_a_step_finds_its_codeset_and_its_outputs_are_collected(
    bench: BenchFactory, codeset: MountedCodeset, sandbox: str
) -> None:
    script = (
        "sh train.sh; cat .fuseml/_org .fuseml/_project; touch new && "
        'test "$(realpath "$FUSEML_CODESET_DIR")" = "$(realpath .)" && '
        'printf "s3://model\\n\\n" > "$FUSEML_RESULTS_DIR/model"'
    )
    async with bench(sandbox=sandbox) as opened:
        finished = await opened.shell(script, codesets=(codeset,), outputs=("model",))

        assert (finished.outcome.ending, finished.outcome.tail) == (Ending.SUCCEEDED, "training\nprjcode")
        assert finished.outputs == {"model": "s3://model"}
        assert [type(report) for report in opened.reports] == [AttemptStarted, AttemptFinished]
        assert not (codeset.source / "new").exists()


@pytest.mark.skipif(shutil.which("bwrap") is None, reason=NO_BWRAP)
async def test_in_a_sandbox_the_fixed_paths_are_real_and_the_state_cannot_be_seen(
    bench: BenchFactory, codeset: MountedCodeset, state: Path, tmp_path: Path
) -> None:
    socket_folder = tmp_path / "run"
    socket_folder.mkdir()
    (socket_folder / "fusemld.sock").touch()
    (state / "fusemld.db").write_text("the database")
    script = (
        "pwd; cat /project/train.sh; echo x > /tekton/results/model; echo tmp > $TMPDIR/x; "
        f"ls -A {state} {socket_folder}; cat {state}/fusemld.db; touch /usr/x; ls /proc | grep -c '^[0-9]'"
    )
    async with bench(sandbox="auto", hidden=(socket_folder,)) as opened:
        finished = await opened.shell(script, codesets=(codeset,), outputs=("model",))

        assert finished.outputs == {"model": "x"}
        lines = opened.log().splitlines()
        assert lines[:2] == ["/project", "echo training"]
        assert "fusemld.sock" not in lines
        assert "the database" not in lines
        assert lines.count("attempts") == 1
        assert any(line.startswith("touch: cannot touch '/usr/x': Read-only") for line in lines)
        assert int(lines[-1]) < 10


@pytest.mark.skipif(shutil.which("bwrap") is None, reason=NO_BWRAP)
async def test_in_a_sandbox_ends_are_told_apart_too(bench: BenchFactory) -> None:
    async with bench(sandbox="bwrap") as opened:
        status = await opened.shell("exit 3", step="status")
        signalled = await opened.shell("kill -SEGV $$", step="signalled")
        absent = Launch(key=key("absent"), image="host", command=("no-such-program",))
        await opened.executor.launch(absent)

        assert status.outcome.message == "exit status 3"
        assert signalled.outcome.ending is Ending.SIGNALLED
        assert signalled.outcome.message == "killed by SIGSEGV (exit status 139)"
        assert (await opened.finished(absent.key)).outcome.ending is Ending.CANNOT_START


@pytest.mark.parametrize("sandbox", SANDBOXES)
async def test_a_step_that_is_told_to_stop_may_clean_up(bench: BenchFactory, sandbox: str, until: Until) -> None:
    script = "trap 'echo cleaned; exit' TERM; echo up; while :; do sleep 0.01; done"
    async with bench(sandbox=sandbox) as opened:
        await opened.executor.launch(shell(script))
        await until(opened.executor.log_path(key()).exists)
        await opened.executor.kill(key(), 20)
        finished = await opened.finished(key())

        assert finished.outcome.ending is Ending.CANCELLED
        assert opened.log().endswith("cleaned\n")


async def test_an_output_that_was_not_written_is_named_with_the_place_it_belongs(bench: BenchFactory) -> None:
    async with bench() as opened:
        finished = await opened.shell('echo "$FUSEML_RESULTS_DIR"', outputs=("model",))

        assert finished.outcome.ending is Ending.OUTPUT_MISSING
        assert f"expected in {opened.log().strip()}/model" in finished.outcome.message


async def test_the_environment_of_the_daemon_stays_with_it(
    bench: BenchFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the daemon")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    async with bench(pass_env=("HTTPS_PROXY",)) as opened:
        await opened.shell("env", env={"FUSEML_X": "1"}, secret_env={"TOKEN": "canary-3"}, secrets={"canary-3"})

        variables = dict(line.split("=", 1) for line in opened.log().splitlines() if "=" in line)
        assert "AWS_SECRET_ACCESS_KEY" not in variables
        assert variables["HTTPS_PROXY"] == "http://proxy"
        assert variables["FUSEML_X"] == "1"
        assert variables["TOKEN"] == "***"


async def test_a_plugin_says_how_its_image_is_run(bench: BenchFactory) -> None:
    async with bench() as opened:
        for step, image, args in (("a", "ghcr.io/x/echo:1", ("one", "two")), ("b", "ghcr.io/x/echo@sha256:0", ())):
            await opened.executor.launch(Launch(key=key(step), image=image, args=args))
            await opened.finished(key(step))

        assert opened.log("a") == "hello from the image one two\n"
        assert opened.log("b") == "hello from the image \n"
        with pytest.raises(StartError, match="build it again"):
            await opened.executor.launch(Launch(key=key("c"), image="ghcr.io/x/echo:gone"))


async def test_a_python_image_is_an_interpreter_of_that_version(bench: BenchFactory) -> None:
    version = ".".join(platform.python_version_tuple()[:2])
    script = "import sys; print(sys.version_info[:2], sys.prefix)"
    async with bench() as opened:
        await opened.executor.launch(
            Launch(key=key(), image=f"python:{version}-slim", command=("python", "-c", script))
        )
        finished = await opened.finished(key())

        assert finished.outcome.ending is Ending.SUCCEEDED
        assert opened.log().startswith(str(tuple(map(int, version.split(".")))))
        assert os.environ.get("VIRTUAL_ENV", ".venv") not in opened.log()


async def test_the_settings_map_images_to_commands(bench: BenchFactory) -> None:
    async with bench(images={"site/tool": ("echo", "tool")}, default_command=("echo", "default")) as opened:
        for step, image in (("a", "site/tool:7"), ("b", "host")):
            await opened.executor.launch(Launch(key=key(step), image=image))
            await opened.finished(key(step))

        assert (opened.log("a"), opened.log("b")) == ("tool\n", "default\n")


async def test_an_image_that_nobody_knows_is_refused_naming_who_could(bench: BenchFactory) -> None:
    async with bench() as opened:
        with pytest.raises(
            StartError, match=r"cannot run image ghcr\.io/a/b:1 as a process: .* kubernetes runs any"
        ):
            await opened.executor.launch(Launch(key=key(), image="ghcr.io/a/b:1", command=("true",)))

        assert opened.reports == []


async def test_without_a_command_there_is_nothing_to_run(bench: BenchFactory) -> None:
    async with bench() as opened:
        with pytest.raises(StartError, match="without a command"):
            await opened.executor.launch(Launch(key=key(), image="host"))


async def test_a_variable_that_the_system_cannot_take_is_named(bench: BenchFactory) -> None:
    async with bench() as opened:
        with pytest.raises(StartError, match="variable FUSEML_X has 200009 bytes"):
            await opened.executor.launch(shell("true", env={"FUSEML_X": "x" * 200_000}))


async def test_a_launch_that_is_repeated_starts_nothing_twice(bench: BenchFactory) -> None:
    async with bench() as opened:
        launch = shell("echo once; cat x; sleep 0.3")
        await opened.executor.launch(launch)
        await opened.executor.launch(launch)
        await opened.finished(launch.key)
        await opened.executor.launch(launch)

        assert opened.log().count("once") == 1
        assert [type(report) for report in opened.reports] == [AttemptStarted, AttemptFinished]


async def test_folders_that_a_killed_daemon_left_of_attempts_that_are_over_are_removed(
    bench: BenchFactory, state: Path
) -> None:
    for name in ("run-1.over.1", "run-1.over.1.parts", "run-1.wanted.1", "run-1.wanted.1.parts"):
        (state / "attempts" / name).mkdir(parents=True)

    async with bench(key("wanted")):
        left = {folder.name for folder in (state / "attempts").iterdir() if folder.is_dir()}

    assert left == {"run-1.wanted.1", "run-1.wanted.1.parts"}


async def test_forgetting_removes_the_folder_and_keeps_the_log(
    bench: BenchFactory, state: Path, until: Until
) -> None:
    async with bench() as opened:
        await opened.shell("echo x > $TMPDIR/left; echo kept")
        assert (state / "attempts" / "run-1.step.1").exists()

        await opened.executor.forget(key())

        await until(lambda: [path.name for path in (state / "attempts").iterdir()] == ["boot.json"])
        assert opened.log() == "kept\n"
        await opened.executor.forget(key("unknown"))


async def inode_of_folder(opened: Bench, step: str, script: str = ":") -> int:
    """Of the private folder of an attempt that is over and forgotten."""
    done = await opened.shell(f"stat -c %i $TMPDIR; ls -A $TMPDIR; {script}", step=step)
    await opened.executor.forget(done.key)
    return int(opened.log(step))


async def test_a_folder_to_which_nothing_was_done_is_that_of_another_attempt(
    bench: BenchFactory, state: Path, until: Until
) -> None:
    async with bench() as opened:
        first = await inode_of_folder(opened, "a")
        again = await inode_of_folder(opened, "b")
        await until(lambda: [path.name for path in (state / "attempts").iterdir()] == ["boot.json"])

    assert again == first


@pytest.mark.parametrize("script", ["touch $TMPDIR/left", "chmod 755 $TMPDIR", "rmdir $TMPDIR"])
async def test_a_folder_to_which_something_was_done_is_nobody_elses(
    bench: BenchFactory, state: Path, until: Until, script: str
) -> None:
    async with bench() as opened:
        await inode_of_folder(opened, "a", script)
        await opened.shell("ls -A $TMPDIR; stat -c %a $TMPDIR", step="b")
        await until(lambda: not (state / "attempts" / "run-1.a.1").exists())

        assert opened.log("b") == "700\n"


async def test_a_folder_that_was_to_be_used_again_and_is_gone_is_made(bench: BenchFactory, state: Path) -> None:
    async with bench() as opened:
        await inode_of_folder(opened, "a")
        (state / "attempts" / "run-1.a.1").rmdir()

        assert (await opened.shell("test -d $TMPDIR", step="b")).outcome.ending is Ending.SUCCEEDED


async def test_folders_to_be_used_again_go_with_the_daemon(bench: BenchFactory, state: Path) -> None:
    async with bench() as opened:
        await inode_of_folder(opened, "a")
        assert (state / "attempts" / "run-1.a.1").exists()

    assert [path.name for path in (state / "attempts").iterdir()] == ["boot.json"]


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


async def test_a_sandbox_that_is_demanded_and_not_there_is_said_at_once(
    bench: BenchFactory, monkeypatch: pytest.MonkeyPatch, host: HostFactory, state: Path
) -> None:
    async with host() as opened:
        monkeypatch.setenv("PATH", "/nowhere")
        made = Bench(state, opened.keeper, sandbox="bwrap")
        with pytest.RaisesGroup(pytest.RaisesExc(StartError, match="bubblewrap .* is not installed")):
            async with anyio.create_task_group() as tasks:
                await tasks.start(made.executor.run, made.report)


async def test_an_attempt_that_lacks_what_comes_back_may_be_launched_later(
    bench: BenchFactory, codeset: MountedCodeset
) -> None:
    async with bench() as made:
        launch = shell("sh train.sh", codesets=(codeset,))
        with few_descriptors([os.getpid()]), pytest.raises(UnavailableError, match="Too many open files"):
            await made.executor.launch(launch)

        await made.executor.launch(launch)
        done = await made.finished(launch.key)

        assert done.outcome.ending is Ending.SUCCEEDED
        assert made.log() == "training\n"


async def test_a_folder_that_cannot_be_removed_now_is_removed_later(
    bench: BenchFactory, until: Until, state: Path
) -> None:
    async with bench() as made:
        done = await made.shell("mkdir $TMPDIR/kept")

        with few_descriptors([os.getpid()]):
            await made.executor.forget(done.key)
        await until(lambda: not any((state / "attempts").glob("*.step.*")))


async def test_an_attempt_that_is_told_to_stop_while_it_waits_for_that_is_not_started(
    bench: BenchFactory, codeset: MountedCodeset
) -> None:
    async with bench() as made:
        launch = shell("sh train.sh", codesets=(codeset,))
        with few_descriptors([os.getpid()]):
            with pytest.raises(UnavailableError):
                await made.executor.launch(launch)
            await made.executor.kill(launch.key, 1.0)
            await made.executor.launch(launch)
            done = await made.finished(launch.key)

        assert done.outcome.ending is Ending.CANCELLED
        assert not made.executor.log_path(launch.key).exists()
