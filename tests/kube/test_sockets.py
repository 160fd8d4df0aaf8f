from __future__ import annotations

import asyncio
import socket

from fusemld.kube.sockets import sockets

LOOPBACK = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))


async def test_a_dead_peer_is_noticed_within_a_minute() -> None:
    async with sockets() as make:
        made = make(LOOPBACK)

        idle_s = made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        apart_s = made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
        tries = made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert idle_s + tries * apart_s <= 60
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 60_000
        made.close()


async def test_what_is_still_open_at_the_end_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with sockets() as make:
            made = make(LOOPBACK)
            made.connect(listening.getsockname())
            await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=made)

        assert made.fileno() < 0
