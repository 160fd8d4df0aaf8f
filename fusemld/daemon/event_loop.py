"""The event loop of the daemon: uvloop's, but for whose descriptors are whose."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Collection, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

import uvloop

_STANDARD_ERROR = 2
_NEEDED_TO_START = 12
"""Descriptors that the loop has open at most for a program that it starts, until that runs."""

P = TypeVar("P", bound=asyncio.BaseProtocol)


class EventLoop(uvloop.Loop):
    """Connections that are made of a socket: if the connection has failed, or is closing already, the socket has
    no descriptor any more. uvloop 0.23 closes it without telling the socket where the first write fails at once:
    where the other side has reset the connection meanwhile. Once it is collected, the socket would close the same
    number again, whoever has it then, be it another connection or the database. (Other cases of this are uvloop's
    issues 645 and 738.)

    Programs are started as by asyncio: uvloop passes on descriptors that the daemon has inherited itself, cuts
    arguments and variables off at a null character, and never closes what it has opened for a program where
    descriptors run out.
    """

    async def create_connection(self, *args: Any, **named: Any) -> Any:
        return await _owned(super().create_connection(*args, **named), named.get("sock"))

    async def create_unix_connection(self, *args: Any, **named: Any) -> Any:
        return await _owned(super().create_unix_connection(*args, **named), named.get("sock"))

    async def subprocess_exec(
        self,
        protocol_factory: Callable[[], P],
        *args: Any,
        pass_fds: Collection[int] = (),
        env: Mapping[Any, Any] | None = None,
        **named: Any,
    ) -> tuple[Any, P]:
        """Raises `ValueError` where no program can get such arguments or variables."""
        variables = {} if env is None else env
        if any(b"\0" in os.fsencode(text) for text in (*args, *variables.keys(), *variables.values())):
            raise ValueError("embedded null byte")
        if any(b"=" in os.fsencode(name) for name in variables):
            raise ValueError("illegal environment variable name")
        _find_room()
        _close_on_exec(pass_fds)
        return await super().subprocess_exec(protocol_factory, *args, pass_fds=pass_fds, env=env, **named)


def _find_room() -> None:
    """Raises `OSError` where there are too few descriptors left to start a program."""
    with contextlib.ExitStack() as taken:
        for _ in range(_NEEDED_TO_START):
            taken.callback(os.close, os.open(os.devnull, os.O_RDONLY))


def _close_on_exec(all_but: Collection[int]) -> None:
    for entry in Path("/proc/self/fd").iterdir():
        descriptor = int(entry.name)
        if descriptor > _STANDARD_ERROR and descriptor not in all_but:
            with contextlib.suppress(OSError):  # it is closed already: that of the listing was
                os.set_inheritable(descriptor, False)


async def _owned(
    connecting: Coroutine[Any, Any, Any], given: socket.socket | None
) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
    is_open = False
    try:
        transport, protocol = await connecting
        is_open = not transport.is_closing()
    finally:
        if given is not None and not is_open:
            given.detach()
    return transport, protocol
