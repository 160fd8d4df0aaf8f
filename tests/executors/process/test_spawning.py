"""What processes are started with, and what keeps them from being started."""

from __future__ import annotations

import contextlib
import os
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import psutil
import pytest

from fusemld.executors.process import groups
from fusemld.executors.process.wire import keeper_folder
from fusemld.hooks.processes import Listener
from fusemld.model.errors import UnavailableError

if TYPE_CHECKING:
    from tests.executors.process.conftest import HostFactory


@pytest.mark.parametrize(
    ("program", "words"),
    [("no-such-program", "No such file"), ("/etc/passwd", "Permission denied"), ("/", "Permission denied")],
)
async def test_a_program_that_cannot_be_executed_says_why(host: HostFactory, program: str, words: str) -> None:
    async with host() as opened:
        await opened.spawn("a", program)
        ended = await opened.end("a")

        assert ended.exit_status == 127
        assert ended.never_started is not None
        assert f"cannot execute {program}: {words}" in ended.never_started


async def test_a_program_whose_name_is_not_text_is_named_all_the_same(host: HostFactory) -> None:
    async with host() as opened:
        await opened.spawn("a", "/no/\udcff")
        ended = await opened.end("a")

        assert ended.never_started == "cannot execute /no/\\xff: No such file or directory"


async def test_a_folder_that_is_not_there_is_named(host: HostFactory) -> None:
    async with host() as opened:
        ended = await opened.shell("a", "true", cwd=Path("/no/such/folder"))

        assert ended.never_started == "cannot enter /no/such/folder: No such file or directory"


async def test_a_program_is_looked_for_in_the_path_that_it_is_given(host: HostFactory, tmp_path: Path) -> None:
    for folder, mode in (("first", 0o600), ("second", 0o700), ("third", 0o700)):
        program = tmp_path / folder / "program"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho {folder}\n")
        program.chmod(mode)
    (tmp_path / "none" / "program").mkdir(parents=True)

    async with host() as opened:

        async def found(key: str, *path: str) -> str | None:
            await opened.spawn(key, "program", env={"PATH": ":".join(path)}, cwd=tmp_path)
            ended = await opened.end(key)
            return ended.never_started or ended.tail

        none, first, second, third = (str(tmp_path / name) for name in ("none", "first", "second", "third"))
        assert await found("a", "/no/such/folder", none, first, second, third) == "second"
        assert await found("b", "third", second) == "third"
        assert await found("c", first, none) == "cannot execute program: Permission denied"
        assert await found("d", "/no/such/folder") == "cannot execute program: No such file or directory"
        assert await found("e", "", second) == "second"


async def test_a_program_without_a_path_is_looked_for_where_the_system_has_its_own(host: HostFactory) -> None:
    async with host() as opened:
        await opened.spawn("a", "sh", "-c", "exit 3", env={})
        assert (await opened.end("a")).exit_status == 3


async def test_a_process_ignores_and_blocks_no_signal(host: HostFactory) -> None:
    async with host() as opened:
        await opened.spawn("a", "grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")
        ended = await opened.end("a")

        blocked, ignored = (int(line.split()[1], 16) for line in ended.tail.splitlines())
        of_the_c_library = 1 << 31 | 1 << 32
        assert (blocked, ignored & ~of_the_c_library) == (0, 0)


async def test_the_keeper_does_not_stay_where_it_starts_processes(
    host: HostFactory, tmp_path: Path, keeper_pid: Callable[[Path], int]
) -> None:
    (tmp_path / "place").mkdir()
    async with host() as opened:
        ended = await opened.shell("a", "pwd", cwd=tmp_path / "place")
        await opened.shell("b", "true", cwd=Path("/no/such/folder"))
        await opened.spawn("c", "no-such-program", cwd=tmp_path / "place")
        await opened.end("c")

        assert ended.tail == str(tmp_path / "place")
        pid = keeper_pid(opened.state)
        assert Path(psutil.Process(pid).cwd()) == keeper_folder(opened.state)


async def test_the_environment_is_what_was_asked_for_and_nothing_else(
    host: HostFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_DAEMON", "1")
    async with host() as opened:
        env = {"PATH": os.environ["PATH"], "A": "1", "B": "1"}
        await opened.shell("a", "env", env=env, secret_env={"B": "2", "C": "\udcff"})

        names = {line.partition(b"=")[0] for line in opened.log("a").read_bytes().splitlines()}
        assert names - {b"PWD", b"SHLVL", b"_", b"OLDPWD"} == {b"PATH", b"A", b"B", b"C", b"FUSEMLD_ATTEMPT"}
        assert b"B=2\n" in opened.log("a").read_bytes()
        assert b"C=\xff\n" in opened.log("a").read_bytes()


async def test_standard_input_is_empty(host: HostFactory) -> None:
    async with host() as opened:
        assert (await opened.shell("a", "read x; echo $?")).tail == "1"


async def test_without_room_for_a_process_the_caller_is_told_to_come_again(
    host: HostFactory, keeper_pid: Callable[[Path], int]
) -> None:
    async with host() as opened:
        await opened.shell("before", "true")
        pid = keeper_pid(opened.state)
        limits = psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE)
        psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE, (5, limits[1]))

        with pytest.raises(UnavailableError, match="Too many open files"):
            await opened.spawn("a", "true")

        psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE, limits)
        await opened.spawn("a", "true")
        assert (await opened.end("a")).exit_status == 0


@pytest.mark.skipif(groups.find() is None, reason="no control group is to be had here")
async def test_a_program_that_there_is_no_process_for_may_be_started_later(
    host: HostFactory, keeper_pid: Callable[[Path], int]
) -> None:
    async with host() as opened:
        await opened.shell("before", "true")
        pid = keeper_pid(opened.state)
        said = "cannot start a process: Resource temporarily unavailable"
        with full_group(pid), pytest.raises(UnavailableError, match=said):
            await opened.spawn("a", "true")

        await opened.spawn("a", "true")
        assert (await opened.end("a")).exit_status == 0


@contextlib.contextmanager
def full_group(pid: int) -> Iterator[None]:
    """The process can start no other as long as the block lasts."""
    place = groups.find()
    assert place is not None
    group = Path(place.base, f"fusemld-test-{pid}")
    group.mkdir()
    try:
        (group / "pids.max").write_text("1")
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        Path(place.home, "cgroup.procs").write_text(str(pid))
        group.rmdir()


async def test_a_listener_stays_open_while_processes_come_and_go(host: HostFactory) -> None:
    listener = Listener(name="web", host="127.0.0.1", port=_free_port())
    server = (
        "import http.server, os, socket, sys\n"
        "assert os.environ['LISTEN_FDS'] == '1'\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(sys.argv[1].encode())\n"
        "web = http.server.HTTPServer(('127.0.0.1', 0), Handler, bind_and_activate=False)\n"
        "web.socket = socket.socket(fileno=3)\n"
        "web.serve_forever()\n"
    )

    def ask() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{listener.port}/", timeout=20) as answer:
            return str(answer.read().decode())

    async with host() as opened:
        await opened.spawn("service/web/1", "python3", "-c", server, "one", listener=listener)
        assert await anyio.to_thread.run_sync(ask) == "one"

        await opened.keeper.stop("service/web/1", 0)
        await opened.end("service/web/1")
        answers: list[str] = []

        async def asking() -> None:
            answers.append(await anyio.to_thread.run_sync(ask))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(asking)  # nobody serves now, and the connection is not refused
            await opened.spawn("service/web/2", "python3", "-c", server, "two", listener=listener)

        assert answers == ["two"]
        await opened.keeper.stop("service/web/2", 0)
        await opened.end("service/web/2")
        await opened.keeper.close_listener("web")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", listener.port), timeout=5)


async def test_a_port_that_is_taken_is_named(host: HostFactory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with host() as opened:
            with pytest.raises(
                UnavailableError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"
            ):
                await opened.spawn("a", "true", listener=Listener(name="x", host="127.0.0.1", port=port))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
