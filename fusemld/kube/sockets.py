"""Sockets that notice a dead peer, and that are gone when they are no longer wanted."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakSet

import anyio

_KEEPALIVE_S = 15
_KEEPALIVE_TRIES = 3
_CLOSING_S = 1.0
_LOOK_S = 0.001


@asynccontextmanager
async def sockets() -> AsyncGenerator[Callable[[Any], socket.socket]]:
    """Gives a factory for asyncio (it takes what `getaddrinfo` returns).

    What is still open at the end is cut: closing TLS politely would wait for a server that may be silent.
    """
    made: WeakSet[socket.socket] = WeakSet()

    def make(address: Any) -> socket.socket:
        new = _socket(*address[:3])
        made.add(new)
        return new

    try:
        yield make
    finally:
        for each in made:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        with anyio.move_on_after(_CLOSING_S):
            while any(each.fileno() >= 0 for each in made):  # noqa: ASYNC110 - asyncio tells nobody
                await anyio.sleep(_LOOK_S)


def _socket(family: int, kind: int, protocol: int) -> socket.socket:
    """The kernel asks a peer that says nothing whether it still lives."""
    new = socket.socket(family, kind, protocol)
    new.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    new.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
    new.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_S)
    new.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_TRIES)
    new.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _KEEPALIVE_S * (_KEEPALIVE_TRIES + 1) * 1000)
    return new
