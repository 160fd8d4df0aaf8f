from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from fusemld.executors.process.connections import STALLED_S, ClosedError, Connection
from fusemld.executors.process.wire import FRAME_LIMIT_BYTES, Reply, ToDaemon, Told, bodies, to_daemon
from fusemld.hooks.processes import ProcessEnded

MIB = 1024**2


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pair(clock: Clock) -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    with contextlib.closing(ours), contextlib.closing(theirs):
        theirs.setblocking(False)
        yield Connection(ours, clock), theirs


def large(number: int, size_bytes: int = MIB) -> Told:
    return Told(id=number, event=ProcessEnded(key="a", at=0.0, exit_status=0, outputs={"x": bytes(size_bytes)}))


def read(peer: socket.socket) -> bytes:
    with contextlib.suppress(BlockingIOError):
        return peer.recv(MIB)
    return b""


def test_what_is_sent_arrives_in_its_order_however_slowly_it_is_read(
    pair: tuple[Connection, socket.socket],
) -> None:
    connection, peer = pair
    messages: list[ToDaemon] = [Reply(id=1), large(2), Reply(id=3), large(4), large(5), Reply(id=6)]
    for message in messages:
        connection.send(message)

    received = bytearray()
    while not connection.flush():
        received += read(peer)
    while data := read(peer):
        received += data

    assert [to_daemon.decode(body) for body in bodies(received)] == messages
    assert not connection.has_outgoing


def test_much_that_waits_for_a_peer_is_no_reason_to_drop_it(pair: tuple[Connection, socket.socket]) -> None:
    connection, _peer = pair
    message = large(1, 16 * MIB)
    for _ in range(3 * FRAME_LIMIT_BYTES // (16 * MIB)):
        connection.send(message)

    assert [connection.flush() for _ in range(3)] == [False, False, False]


def test_a_peer_that_reads_nothing_for_long_is_dropped(
    pair: tuple[Connection, socket.socket], clock: Clock
) -> None:
    connection, _peer = pair
    connection.send(large(1))
    connection.flush()

    clock.now += STALLED_S
    assert not connection.flush()
    clock.now += 1.0
    with pytest.raises(ClosedError, match="it does not read"):
        connection.flush()


def test_a_peer_that_reads_slowly_or_had_nothing_to_read_for_long_is_not_dropped(
    pair: tuple[Connection, socket.socket], clock: Clock
) -> None:
    connection, peer = pair
    connection.send(Reply(id=1))
    assert connection.flush()
    clock.now += 10 * STALLED_S
    connection.send(large(2, 8 * MIB))

    for _ in range(4):
        assert not connection.flush()
        clock.now += STALLED_S
        assert read(peer)
