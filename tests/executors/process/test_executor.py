"""Attempts as real processes, with and without a sandbox."""

from __future__ import annotations

import errno
import os
import platform
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import anyio
import anyio.from_thread
import pytest

from fusemld.executors.process import left_outputs
from fusemld.executors.process.collecting import read_left
from fusemld.hooks.executors import AttemptFinished, AttemptStarted, Launch, MountedCodeset
from fusemld.hooks.processes import LeftOutput
from fusemld.model.errors import StartError, UnavailableError
from fusemld.model.run import Ending
from tests.acceptance.mishaps import few_descriptors
from tests.executors.process.bench import Bench, BenchFactory, key, shell
from tests.executors.process.conftest import HostFactory

Until = Callable[[Callable[[], bool]], Awaitable[None]]
NO_BWRAP = "bubblewrap is not installed: apt-get install bubblewrap"
SANDBOXES = [
    "off",
    pytest.param("bwrap", marks=pytest.mark.skipif(shutil.which("bwrap") is None, reason=NO_BWRAP)),
]


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


@pytest.mark.parametrize("sandbox", SANDBOXES)
async def test_long_outputs_are_handed_over_too(bench: BenchFactory, sandbox: str) -> None:
    script = (
        "yes x | head -c 1000000 > /tekton/results/model || yes x | head -c 1000000 > $FUSEML_RESULTS_DIR/model"
    )
    async with bench(sandbox=sandbox) as opened:
        finished = await opened.shell(f"({script}) 2> /dev/null", outputs=("model",))
        missing = await opened.shell(f"({script}) 2> /dev/null", step="two", outputs=("model", "other"))
        failed = await opened.shell(f"({script}) 2> /dev/null; exit 3", step="three", outputs=("model",))

        assert finished.outputs == {"model": ("x\n" * 500_000).rstrip("\n")}
        assert (missing.outcome.ending, missing.outputs) == (Ending.OUTPUT_MISSING, {})
        assert "did not write its output other" in missing.outcome.message
        assert (failed.outcome.exit_status, failed.outputs) == (3, {})


async def test_long_outputs_that_are_not_what_they_were_are_lost_with_their_attempt(
    bench: BenchFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench() as opened:

        def changed_first(results: Path, left: Mapping[str, LeftOutput]) -> dict[str, bytes] | None:
            (results / "model").write_bytes(b"x" * 1_000_000)
            return read_left(results, left)

        monkeypatch.setattr(left_outputs, "read_left", changed_first)
        finished = await opened.shell("head -c 1000000 /dev/zero > $FUSEML_RESULTS_DIR/model", outputs=("model",))

        assert finished.outcome.ending is Ending.LOST
        assert finished.outcome.message == "its outputs are not what they were when it ended"


async def test_a_bug_where_long_outputs_are_read_costs_the_attempt_and_no_other(
    bench: BenchFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    give = "head -c 1000000 /dev/zero > $FUSEML_RESULTS_DIR/model"
    async with bench() as opened:
        with monkeypatch.context() as patch:
            patch.setattr(left_outputs, "read_left", lambda results, left: {"model": None})
            broken = await opened.shell(give, outputs=("model",))
        sound = await opened.shell(give, step="two", outputs=("model",))

        assert broken.outcome.ending is Ending.LOST
        assert "its outputs cannot be read: an error of fusemld's own: " in broken.outcome.message
        assert sound.outputs == {"model": "\0" * 1_000_000}


async def test_long_outputs_are_read_again_where_this_host_lacks_something_for_it(
    bench: BenchFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(left_outputs, "_AGAIN_S", 0.01)
    tries: list[Path] = []

    def fails_twice(results: Path, left: Mapping[str, LeftOutput]) -> dict[str, bytes] | None:
        tries.append(results)
        if len(tries) < 3:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return read_left(results, left)

    monkeypatch.setattr(left_outputs, "read_left", fails_twice)
    async with bench() as opened:
        finished = await opened.shell("head -c 1000000 /dev/zero > $FUSEML_RESULTS_DIR/model", outputs=("model",))

        assert finished.outputs == {"model": "\0" * 1_000_000}
        assert len(tries) == 3


async def test_long_outputs_that_cannot_be_read_now_hold_up_no_other(
    bench: BenchFactory, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(left_outputs, "_AGAIN_S", 0.01)
    tries: list[Path] = []

    def never(results: Path, left: Mapping[str, LeftOutput]) -> dict[str, bytes] | None:
        if "stuck" in str(results):
            tries.append(results)
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return read_left(results, left)

    monkeypatch.setattr(left_outputs, "read_left", never)
    give = "head -c 1000000 /dev/zero > $FUSEML_RESULTS_DIR/model"
    async with bench() as opened:
        await opened.executor.launch(shell(give, step="stuck", outputs=("model",)))
        await until(lambda: len(tries) > 1)

        assert (await opened.shell(give, outputs=("model",))).outputs == {"model": "\0" * 1_000_000}
        assert await opened.executor.unknown([key("stuck")]) == frozenset()


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
