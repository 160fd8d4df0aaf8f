"""The event loop of the daemon: uvloop's, but for who owns a socket that it is given."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any

import uvloop


class EventLoop(uvloop.Loop):
    """A socket whose connection has failed, or is closing already, has no descriptor any more.

    uvloop 0.23 closes it without telling the socket where the first write fails at once: where the other side has
    reset the connection meanwhile. Once it is collected, the socket would close the same number again, whoever has
    it then, be it another connection or the database. (Other cases of this are uvloop's issues 645 and 738.)
    """

    async def create_connection(self, *args: Any, **named: Any) -> Any:
        return await _owned(super().create_connection(*args, **named), named.get("sock"))

    async def create_unix_connection(self, *args: Any, **named: Any) -> Any:
        return await _owned(super().create_unix_connection(*args, **named), named.get("sock"))


async def _owned(
    connecting: Coroutine[Any, Any, Any], given: socket.socket | None
) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
    try:
        transport, protocol = await connecting
    except BaseException:
        if given is not None:
            given.detach()
        raise
    if given is not None and transport.is_closing():
        given.detach()
    return transport, protocol
