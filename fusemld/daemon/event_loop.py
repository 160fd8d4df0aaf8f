"""The event loop of the daemon: uvloop's, but for whose descriptors are whose."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Collection, Coroutine
from pathlib import Path
from typing import Any

import uvloop

_STANDARD_ERROR = 2


class EventLoop(uvloop.Loop):
    """A socket whose connection has failed, or is closing already, has no descriptor any more.

    uvloop 0.23 closes it without telling the socket where the first write fails at once: where the other side has
    reset the connection meanwhile. Once it is collected, the socket would close the same number again, whoever has
    it then, be it another connection or the database. (Other cases of this are uvloop's issues 645 and 738.)

    What it starts gets no descriptor that it was not given, as with asyncio: uvloop passes on those that the
    daemon has inherited itself.
    """

    async def create_connection(self, *args: Any, **named: Any) -> Any:
        return await _owned(super().create_connection(*args, **named), named.get("sock"))

    async def create_unix_connection(self, *args: Any, **named: Any) -> Any:
        return await _owned(super().create_unix_connection(*args, **named), named.get("sock"))

    async def subprocess_exec(self, *args: Any, pass_fds: Collection[int] = (), **named: Any) -> Any:
        for entry in Path("/proc/self/fd").iterdir():
            descriptor = int(entry.name)
            if descriptor > _STANDARD_ERROR and descriptor not in pass_fds:
                with contextlib.suppress(OSError):  # it is closed already: that of the listing was
                    os.set_inheritable(descriptor, False)
        return await super().subprocess_exec(*args, pass_fds=pass_fds, **named)


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
