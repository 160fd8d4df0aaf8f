"""Whose descriptor it is: a number that is closed twice is somebody else's the second time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from tests.acceptance.mishaps import few_descriptors

DEADLINE_S = 10.0
Connect = Callable[["Talker", socket.socket], Awaitable[Any]]


class Talker(asyncio.Protocol):
    """Speaks first."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.lost = anyio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(b"hello")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


async def over_unix(talker: Talker, connection: socket.socket) -> None:
    await asyncio.get_running_loop().create_unix_connection(lambda: talker, sock=connection)


async def over_tcp(talker: Talker, connection: socket.socket) -> None:
    await asyncio.get_running_loop().create_connection(lambda: talker, sock=connection)


async def over_tls(talker: Talker, connection: socket.socket) -> None:
    await asyncio.get_running_loop().create_connection(
        lambda: talker, sock=connection, ssl=ssl.create_default_context(), server_hostname="localhost"
    )


def connected(connect: Connect, folder: Path) -> tuple[socket.socket, socket.socket]:
    """A connection, and the listener where it waits."""
    family, address = (
        (socket.AF_UNIX, str(folder / "socket")) if connect is over_unix else (socket.AF_INET, ("127.0.0.1", 0))
    )
    listener = socket.socket(family)
    listener.bind(address)
    listener.listen()
    connection = socket.socket(family)
    connection.connect(listener.getsockname())
    return connection, listener


@pytest.mark.parametrize("connect", [over_unix, over_tcp, over_tls])
async def test_a_connection_that_is_reset_before_the_first_word_is_closed_once(
    connect: Connect, tmp_path: Path
) -> None:
    connection, listener = connected(connect, tmp_path)
    listener.close()
    talker = Talker()

    with anyio.fail_after(DEADLINE_S), contextlib.suppress(OSError):
        await connect(talker, connection)
        await talker.lost.wait()

    assert connection.fileno() == -1


@pytest.mark.parametrize("connect", [over_unix, over_tcp])
async def test_a_connection_that_is_well_keeps_its_socket_until_it_is_closed(
    connect: Connect, tmp_path: Path
) -> None:
    connection, listener = connected(connect, tmp_path)
    talker = Talker()
    with listener, listener.accept()[0] as peer:
        await connect(talker, connection)
        assert await anyio.to_thread.run_sync(peer.recv, 5) == b"hello"
        is_open = connection.fileno() != -1
        assert talker.transport is not None
        talker.transport.close()
        with anyio.fail_after(DEADLINE_S):
            await talker.lost.wait()

    assert is_open
    assert connection.fileno() == -1


async def test_what_is_started_gets_no_descriptor_but_those_it_is_given(tmp_path: Path) -> None:
    inherited = os.open(tmp_path, os.O_RDONLY)
    given = os.open(tmp_path, os.O_RDONLY)
    try:
        os.set_inheritable(inherited, True)
        listed = await anyio.run_process(["ls", "/proc/self/fd"], pass_fds=[given])
    finally:
        os.close(inherited)
        os.close(given)

    found = set(map(int, listed.stdout.split()))
    assert given in found
    assert inherited not in found


@pytest.mark.parametrize(
    ("argument", "variables"),
    [("a\0b", {}), ("a", {"A": "x\0y"}), ("a", {"A\0B": "x"}), ("a", {"A=B": "x"})],
)
async def test_what_no_program_can_be_given_is_refused(argument: str, variables: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"null byte|illegal"):
        await anyio.run_process(["echo", argument], env=os.environ | variables)


@pytest.mark.parametrize(("spare", "outcome"), [*((spare, errno.EMFILE) for spare in range(12)), (16, 0)])
async def test_a_program_that_cannot_be_started_for_want_of_descriptors_takes_none(
    spare: int, outcome: int
) -> None:
    await anyio.run_process(["true"])
    before = descriptors()
    outcomes = []
    with few_descriptors([os.getpid()], spare):
        for _ in range(3):
            try:
                await anyio.run_process(["true"])
                outcomes.append(0)
            except OSError as error:
                outcomes.append(error.errno or -1)
    after = descriptors()

    assert outcomes == [outcome] * 3
    assert after == before
    await anyio.run_process(["true"])


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
