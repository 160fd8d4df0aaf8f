"""What `kill -9` does: of the daemon, and of the keeper at every point."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.from_thread
import anyio.lowlevel
import msgspec
import pytest

from fusemld.executors.process import client, recovery
from fusemld.executors.process.client import Keeper
from fusemld.executors.process.journal import Opened
from fusemld.executors.process.keeper import UNWATCHED
from fusemld.executors.process.recorded import record_journal, recorded_journal
from fusemld.executors.process.spawning import start_ticks
from fusemld.executors.process.wire import keeper_folder
from fusemld.hooks.processes import ProcessEnded, ProcessStarted
from fusemld.model import faults
from fusemld.model.errors import UnavailableError

if TYPE_CHECKING:
    from tests.executors.process.conftest import Host, HostFactory

Until = Callable[[Callable[[], bool]], Awaitable[None]]

Gone = Callable[[int], Awaitable[None]]
FOREVER = ("sh", "-c", "echo up; exec sleep 1000")

DAEMON = """
import os, signal, sys
from pathlib import Path
import anyio
from fusemld.executors.process.client import Keeper
from fusemld.hooks.processes import ProcessRequest

async def main():
    state = Path(sys.argv[1])
    keeper = Keeper(state)
    async with anyio.create_task_group() as tasks:
        await tasks.start(keeper.run)
        for key, script in [
            ("step/ends", "read x < gate; printf out > result; echo done; exit 3"),
            ("step/goes-on", "echo up; exec sleep 1000"),
        ]:
            await keeper.spawn(ProcessRequest(
                key=key, argv=("sh", "-c", script), cwd=state, log=state / "logs" / key,
                env={"PATH": os.environ["PATH"]}, results=state, outputs=("result",),
            ))
        os.kill(os.getpid(), signal.SIGKILL)

anyio.run(main)
"""


async def test_steps_go_on_without_the_daemon_and_the_next_one_hears_of_their_ends(
    until: Until, host: HostFactory, state: Path
) -> None:
    os.mkfifo(state / "gate")
    daemon = await anyio.run_process([sys.executable, "-c", DAEMON, str(state)], check=False)
    assert daemon.returncode == -signal.SIGKILL
    (state / "gate").write_text("go\n")
    await until((state / "logs" / "step" / "ends").exists)

    async with host() as opened:
        ended = await opened.end("step/ends")

        assert (ended.exit_status, ended.outputs, ended.tail) == (3, {"result": b"out"}, "done")
        goes_on = {event.key: event for event in await opened.keeper.known("step/")}["step/goes-on"]
        assert isinstance(goes_on, ProcessStarted)
        await opened.spawn("step/goes-on", *FOREVER)
        assert (await opened.start("step/goes-on")).pid == goes_on.pid
        await opened.keeper.stop("step/goes-on", 5)
        assert (await opened.end("step/goes-on")).killed


async def test_when_the_keeper_is_killed_its_processes_are_accounted_for(
    until: Until, host: HostFactory, gone: Gone, kill_keeper: Callable[[Path], None]
) -> None:
    async with host() as opened:
        await opened.shell("ended", "exit 2")
        await opened.spawn("runs", "sh", "-c", "setsid sleep 1000 & echo $!; exec sleep 1000")
        await until(opened.log("runs").exists)
        pid, escaped = (await opened.start("runs")).pid, int(opened.log("runs").read_text())

        kill_keeper(opened.state)
        lost = await opened.end("runs")

        assert lost.lost == recovery.KILLED
        assert (lost.exit_status, lost.signal) == (None, None)
        assert lost.tail == str(escaped)
        await gone(pid)
        await gone(escaped)
        ended = {event.key: event for event in await opened.keeper.known("")}["ended"]
        assert isinstance(ended, ProcessEnded)
        assert ended.exit_status == 2
        assert (await opened.shell("next", "exit 1")).exit_status == 1


@pytest.mark.parametrize("point", ["keeper.claimed", "keeper.spawned"])
async def test_what_a_keeper_was_starting_whose_journal_is_lost_is_not_started_again(
    host: HostFactory, gone: Gone, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setenv(faults.VARIABLE, point)
    async with host() as opened:
        monkeypatch.delenv(faults.VARIABLE)
        journal = keeper_folder(opened.state) / "journal"
        before = opened.keeper.journal
        journal.unlink()
        with pytest.raises(UnavailableError):
            await opened.spawn("a", "sh", "-c", "echo $$ >> started; exec sleep 1000")
        lost = await opened.end("a")

        assert lost.lost == recovery.JOURNAL_LOST
        assert opened.keeper.journal != before
        started = (opened.state / "started").read_text().split() if (opened.state / "started").exists() else []
        assert len(started) <= 1
        for pid in started:
            await gone(int(pid))


async def test_what_journals_had_that_were_lost_is_ended_before_the_next_daemon_can_start_anything(
    host: HostFactory, state: Path, lose_journal: Callable[[Path], None]
) -> None:
    async with host(shut_down=False) as opened:
        await opened.spawn("service/a/1", *FOREVER)
        first = (await opened.start("service/a/1")).pid
    lose_journal(state)
    async with host(shut_down=False) as opened:
        is_first_left = start_ticks(first)
        await opened.spawn("service/a/2", *FOREVER)
        await opened.start("service/a/2")
        lose_journal(state)
        await opened.end("service/a/2")
        await opened.spawn("service/a/3", *FOREVER)
        third = (await opened.start("service/a/3")).pid
    lose_journal(state)
    async with host():
        is_third_left = start_ticks(third)

    assert not is_first_left
    assert not is_third_left


@pytest.mark.parametrize("point", ["keeper.claimed", "keeper.spawned", "keeper.reaped"])
async def test_a_keeper_killed_at_any_point_starts_nothing_twice_and_leaves_nothing(
    host: HostFactory, gone: Gone, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setenv(faults.VARIABLE, point)
    async with host() as opened:
        monkeypatch.delenv(faults.VARIABLE)
        script = "echo $$ >> started; test $0 = keeper.reaped || exec sleep 1000"
        try:
            await opened.spawn("a", "sh", "-c", script, point)
        except UnavailableError:
            await opened.spawn("a", "sh", "-c", script, point)
        lost = await opened.end("a")

        assert lost.lost in (recovery.UNKNOWN_START, recovery.KILLED, recovery.UNOBSERVED)
        started = (opened.state / "started").read_text().split() if (opened.state / "started").exists() else []
        assert len(started) == (0 if point == "keeper.claimed" else len(started[:1]))
        for pid in started:
            await gone(int(pid))


BROKEN_KEEPER = """
import os, sys
from fusemld.executors.process import keeper, loop, pump

owner, name = {"watch": (loop.Loop, "watch")}.get(sys.argv[3], (keeper, sys.argv[3]))
works = getattr(owner, name)

def breaks(*args, **more):
    is_pipe = name != "watch" or os.readlink(f"/proc/self/fd/{args[1]}").startswith("pipe:")
    if is_pipe and os.path.exists("../broken"):
        raise BufferError("it broke")
    return works(*args, **more)

setattr(owner, name, breaks)
keeper.main()
"""


@pytest.mark.parametrize(
    ("place", "lost", "never_started"),
    [
        ("watch", UNWATCHED, ""),
        ("ProcessStarted", UNWATCHED, ""),
        ("start", "", "the keeper of the processes cannot start it"),
        ("needles", "", "the keeper of the processes cannot start it"),
    ],
)
async def test_a_start_that_goes_wrong_as_nobody_has_thought_of_ends_itself_alone_and_is_not_repeated(
    host: HostFactory, state: Path, gone: Gone, place: str, lost: str, never_started: str
) -> None:
    await anyio.run_process([sys.executable, "-c", BROKEN_KEEPER, str(state), "60", place])
    async with host() as opened:
        await opened.spawn("before", "sh", "-c", "until test -e gate; do sleep 0.02; done; exit 3")
        before = await opened.start("before")
        (state / "broken").touch()
        script = "echo $$ >> pids; exec sleep 1000"
        await opened.spawn("broken", "sh", "-c", script)
        await opened.spawn("broken", "sh", "-c", script)
        broken = await opened.end("broken")
        await opened.spawn("broken", "sh", "-c", script)
        (state / "broken").unlink()
        after = await opened.shell("after", "exit 4")
        (state / "gate").touch()

        assert (broken.lost or "").startswith(lost)
        assert (broken.never_started or "").startswith(never_started)
        assert "it broke" in f"{broken.lost}{broken.never_started}"
        assert (after.exit_status, (await opened.end("before")).exit_status) == (4, 3)
        assert before.pid > 0
        started = (state / "pids").read_text().split() if (state / "pids").exists() else []
        assert len(started) <= (1 if lost else 0)
        for pid in started:
            await gone(int(pid))


async def test_after_a_crash_of_the_host_what_ran_is_lost(
    host: HostFactory, state: Path, kill_keeper: Callable[[Path], None]
) -> None:
    keeper = Keeper(state)
    async with anyio.create_task_group() as tasks:
        await tasks.start(keeper.run)
        tasks.cancel_scope.cancel()
    journal = keeper_folder(state) / "journal"
    kill_keeper(state)
    first, rest = journal.read_bytes().split(b"\n", 1)
    opened_then = msgspec.json.decode(first, type=Opened)
    other = msgspec.json.encode(Opened(boot="another", marker=opened_then.marker))
    claimed = b'{"type":"claimed","key":"a","at":1.0,"log":""}'
    # The process of that number today is somebody else's.
    spawned = b'{"type":"spawned","key":"a","at":1.0,"pid":%d,"ticks":1}' % os.getpid()
    journal.write_bytes(b"\n".join((other, claimed, spawned, rest)))

    async with host() as opened:
        assert (await opened.end("a")).lost == recovery.HOST_WENT_DOWN


async def test_of_two_daemons_at_once_both_use_the_same_keeper(
    host: HostFactory, state: Path, count_keepers: Callable[[Path], int]
) -> None:
    async def use(opened: Host, key: str) -> None:
        assert (await opened.shell(key, "exit 0")).exit_status == 0

    async with host() as one, host(shut_down=False) as two:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(use, one, "a")
            tasks.start_soon(use, two, "b")

        assert count_keepers(state) == 1


async def test_a_keeper_that_is_killed_while_it_starts_is_started_again(
    host: HostFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nmkdir {tmp_path}/killed && kill -9 $$\nexec {sys.executable} "$@"\n')
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))

    async with host() as opened:
        ended = await opened.shell("a", "exit 3")

    assert (tmp_path / "killed").exists()
    assert ended.exit_status == 3


async def test_what_is_forgotten_while_the_keeper_is_being_adopted_is_forgotten(
    host: HostFactory, state: Path
) -> None:
    async with host(shut_down=False) as opened:
        await opened.shell("a", "exit 0")
    record_journal(state, "another")  # the name of this one is written while the daemon waits
    keeper, told = Keeper(state), anyio.Event()
    keeper.observe("a", lambda _event: told.set())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.run)
        await told.wait()
        await keeper.forget("a")
        known = await keeper.known("")
        tasks.cancel_scope.cancel()
    await keeper.shutdown(0)

    assert known == ()


async def known_to_next(keeper: Keeper) -> Sequence[ProcessStarted | ProcessEnded]:
    """What a keeper knows, once there is one again."""
    with anyio.fail_after(15):
        while True:
            with contextlib.suppress(UnavailableError):
                return await keeper.known("")
            await anyio.sleep(0.005)


async def test_forgetting_never_fails_whenever_the_keeper_goes_away(
    host: HostFactory, state: Path, kill_keeper: Callable[[Path], None]
) -> None:
    async with host() as opened:
        await opened.shell("a", "exit 0")
        for _ in range(3):
            kill_keeper(state)
            for _ in range(2000):
                await opened.keeper.forget("a")
                await anyio.lowlevel.checkpoint()
            known = await known_to_next(opened.keeper)

    assert known == ()


async def test_a_keeper_that_dies_while_what_it_told_is_settled_is_replaced(
    host: HostFactory, state: Path, monkeypatch: pytest.MonkeyPatch, kill_keeper: Callable[[Path], None]
) -> None:
    """Something was forgotten meanwhile, of which it is to be told next."""
    dies = anyio.Event()

    def double_of_a_slow_disk(folder: Path) -> str:
        if not dies.is_set():
            anyio.from_thread.run_sync(kill_keeper, folder)
            anyio.from_thread.run(anyio.sleep, 0.1)
            anyio.from_thread.run(opened.keeper.forget, "a")
            anyio.from_thread.run_sync(dies.set)
        return recorded_journal(folder)

    async with host() as opened:
        await opened.shell("a", "exit 0")
        monkeypatch.setattr(client, "recorded_journal", double_of_a_slow_disk)
        opened.keeper.journal = ""  # as for a daemon that has just started
        kill_keeper(state)
        with anyio.fail_after(10):
            await dies.wait()
        known = await known_to_next(opened.keeper)
        ended = await opened.shell("b", "exit 3")

    assert known == ()
    assert ended.exit_status == 3


async def test_a_keeper_that_nobody_needs_goes_away(
    until: Until, host: HostFactory, state: Path, count_keepers: Callable[[Path], int]
) -> None:
    async with host(idle_s=0.1, shut_down=False) as opened:
        await opened.shell("a", "exit 0")
        assert count_keepers(state) == 1

    await until(lambda: count_keepers(state) == 0)
    async with host() as opened:
        assert (await opened.end("a")).exit_status == 0


async def test_shutting_down_leaves_nothing(
    host: HostFactory, state: Path, gone: Gone, count_keepers: Callable[[Path], int]
) -> None:
    async with host(shut_down=False) as opened:
        await opened.spawn("a", *FOREVER)
        pid = (await opened.start("a")).pid

    await Keeper(state).shutdown(5)

    assert count_keepers(state) == 0
    await gone(pid)


async def test_who_shuts_the_keeper_down_starts_no_other(
    host: HostFactory, state: Path, count_keepers: Callable[[Path], int]
) -> None:
    async with host(shut_down=False) as opened:
        await opened.keeper.shutdown(5)
        await anyio.sleep(0.3)  # another one would be there within a moment

        assert count_keepers(state) == 0


async def test_shutting_down_also_ends_what_a_killed_keeper_left(
    host: HostFactory, state: Path, gone: Gone, kill_keeper: Callable[[Path], None]
) -> None:
    async with host(shut_down=False) as opened:
        await opened.spawn("a", *FOREVER)
        pid = (await opened.start("a")).pid
    kill_keeper(state)

    await Keeper(state).shutdown(5)

    await gone(pid)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


@pytest.mark.parametrize("lost", ["journal", "."])
@pytest.mark.parametrize("is_keeper_killed", [False, True])
async def test_shutting_down_also_ends_what_a_keeper_has_whose_journal_is_lost(
    host: HostFactory,
    state: Path,
    gone: Gone,
    kill_keeper: Callable[[Path], None],
    lost: str,
    is_keeper_killed: bool,
) -> None:
    async with host(shut_down=False) as opened:
        await opened.spawn("a", *FOREVER)
        pid = (await opened.start("a")).pid
    remove(keeper_folder(state) / lost)
    if is_keeper_killed:
        kill_keeper(state)

    assert await Keeper(state).shutdown(5)

    await gone(pid)


async def test_shutting_down_where_nothing_ever_ran_does_nothing(state: Path) -> None:
    await Keeper(state).shutdown(5)

    assert list(state.iterdir()) == []
