"""The keeper's side of its socket: non-blocking connections that read frames and queue answers."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from fusemld.executors.process.wire import (
    FrameError,
    ToDaemon,
    ToKeeper,
    bodies,
    frame,
    socket_address,
    to_keeper,
)

_READ_BYTES = 256 * 1024
_WRITE_BYTES = 256 * 1024
"""So much is made ready to be sent, or one frame: what waits behind it waits as it is in memory anyway."""
STALLED_S = 60.0


class ClosedError(Exception):
    """the other side is gone, or does not speak the protocol"""


class Connection:
    """One daemon, or a command that talks to the keeper."""

    def __init__(self, peer: socket.socket, clock: Callable[[], float] = time.monotonic) -> None:
        peer.setblocking(False)
        self.peer = peer
        self.greeted = False
        self.is_blocked = False
        self._received = bytearray()
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._waiting: deque[ToDaemon] = deque()
        self._outgoing = bytearray()
        self._clock = clock
        self._stuck_since: float | None = None

    def receive(self) -> list[ToKeeper]:
        """The complete messages that have arrived. Raises `ClosedError`."""
        try:
            size = self.peer.recv_into(self._buffer)
        except BlockingIOError:
            return []
        except OSError as error:
            raise ClosedError(str(error)) from error
        if not size:
            raise ClosedError
        self._received += self._buffer[:size]
        try:
            return [to_keeper.decode(body) for body in bodies(self._received)]
        except (FrameError, msgspec.MsgspecError) as error:
            raise ClosedError(f"not understood: {error}") from error

    def send(self, message: ToDaemon) -> None:
        """As soon as the peer reads it: nothing is lost on one that does so slowly."""
        self._waiting.append(message)

    @property
    def has_outgoing(self) -> bool:
        return bool(self._outgoing or self._waiting)

    def flush(self) -> bool:
        """True when everything is sent. Raises `ClosedError`, also for a peer that has read nothing for
        `STALLED_S`, however much waits for it."""
        try:
            while self._has_encoded():
                sent = self.peer.send(self._outgoing)
                del self._outgoing[:sent]
                self._stuck_since = None
        except BlockingIOError:
            if self._stuck_since is None:
                self._stuck_since = self._clock()
            elif self._clock() - self._stuck_since > STALLED_S:
                raise ClosedError("it does not read") from None
            return False
        except (FrameError, OSError) as error:
            raise ClosedError(str(error)) from error
        return True

    def _has_encoded(self) -> bool:
        while self._waiting and len(self._outgoing) < _WRITE_BYTES:
            self._outgoing += frame(self._waiting.popleft())
        return bool(self._outgoing)


def listen(folder: Path) -> socket.socket:
    """Bind the keeper's socket in its private folder. Only the holder of the lock may: what is there is stale."""
    (folder / "keeper.sock").unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.setblocking(False)
    with socket_address(folder) as address:
        server.bind(address)
    server.listen(64)
    return server


def is_allowed(peer: socket.socket) -> bool:
    """Only the keeper's own user and root; the folder's mode keeps others out already."""
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _pid, uid, _gid = struct.unpack("3i", credentials)
    return uid in (0, os.getuid())
