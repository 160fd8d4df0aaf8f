"""What the daemon and its keeper say to each other: frames of a 4-byte big-endian length and msgpack.

Everything that may hold any bytes (arguments, variables, paths, secrets) travels as bytes: outputs of steps
reach the environments of others, and msgpack text must be UTF-8.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec

from fusemld.executors.outputs import ALL_OUTPUTS_LIMIT_BYTES, within
from fusemld.hooks.processes import Listener, ProcessEnded, ProcessStarted

VERSION = 1
FRAME_LIMIT_BYTES = 256 * 1024 * 1024
_LARGEST_ID = 2**63 - 1
ProcessEvent = ProcessStarted | ProcessEnded


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """The first frame of both sides. The keeper's names its journal (`Opened.marker`)."""

    version: int
    pid: int
    journal: str = ""


class Spawn(msgspec.Struct, frozen=True, array_like=True, tag="spawn"):
    """A `ProcessRequest`; `env` is complete."""

    id: int
    key: str
    argv: tuple[bytes, ...]
    cwd: bytes
    log: bytes
    env: dict[bytes, bytes]
    secrets: tuple[bytes, ...] = ()
    log_limit_bytes: int = 0
    results: bytes = b""
    outputs: tuple[str, ...] = ()
    output_limit_bytes: int = 0
    listener: Listener | None = None
    process_limit: int = 0
    log_limit_setting: str = ""
    all_outputs_limit_bytes: int = ALL_OUTPUTS_LIMIT_BYTES
    told_outputs_bytes: int = 0

    def __repr__(self) -> str:
        return f"Spawn(key={self.key!r})"


class Stop(msgspec.Struct, frozen=True, array_like=True, tag="stop"):
    id: int
    key: str
    grace_s: float


class Forget(msgspec.Struct, frozen=True, array_like=True, tag="forget"):
    """Not answered."""

    keys: tuple[str, ...]


class Ask(msgspec.Struct, frozen=True, array_like=True, tag="ask"):
    """Answered by one `Told` for every key below the prefix, then a `Reply`."""

    id: int
    prefix: str


class CloseListener(msgspec.Struct, frozen=True, array_like=True, tag="close"):
    id: int
    name: str


class Shutdown(msgspec.Struct, frozen=True, array_like=True, tag="shutdown"):
    """Stop everything; answered when nothing runs any more, just before the keeper exits."""

    id: int
    grace_s: float


class Reply(msgspec.Struct, frozen=True, array_like=True, tag="reply"):
    """`error` says why the request was not carried out; `fault` if repeating it will not help."""

    id: int
    error: str = ""
    fault: bool = False


class Told(msgspec.Struct, frozen=True, array_like=True, tag="told"):
    """`id` is that of the `Ask` it answers, 0 where the keeper speaks unasked."""

    id: int
    event: ProcessEvent


Request = Spawn | Stop | Forget | Ask | CloseListener | Shutdown
ToKeeper = Hello | Request
ToDaemon = Hello | Reply | Told

_encoder = msgspec.msgpack.Encoder()
to_keeper = msgspec.msgpack.Decoder(ToKeeper)
to_daemon = msgspec.msgpack.Decoder(ToDaemon)


class FrameError(Exception):
    """what was received, or is to be sent, is not a frame of this protocol"""


def frame(message: ToKeeper | ToDaemon) -> bytes:
    """Raises `FrameError` where it would be one that the other side refuses."""
    body = _encoder.encode(message)
    _check(len(body))
    return len(body).to_bytes(4, "big") + body


def deliverable(event: ProcessEnded) -> ProcessEnded:
    """The end as a frame can hold it: an earlier keeper took outputs without a limit on all of them together."""
    try:
        frame(Told(id=_LARGEST_ID, event=event))
    except FrameError:
        _, beyond = within(event.outputs, ALL_OUTPUTS_LIMIT_BYTES)
        reasons = beyond or event.refused_outputs
        first = dict(itertools.islice(reasons.items(), 1))
        return msgspec.structs.replace(event, outputs={}, refused_outputs=first)
    return event


def bodies(buffer: bytearray) -> Iterator[bytes]:
    """Take the complete frames off the front of the buffer. Raises `FrameError`."""
    start = 0
    try:
        while len(buffer) - start >= 4:
            size = int.from_bytes(buffer[start : start + 4], "big")
            _check(size)
            if len(buffer) - start - 4 < size:
                return
            body = bytes(buffer[start + 4 : start + 4 + size])
            start += 4 + size
            yield body
    finally:
        del buffer[:start]


def _check(size_bytes: int) -> None:
    if size_bytes > FRAME_LIMIT_BYTES:
        raise FrameError(f"a frame of {size_bytes} bytes; at most {FRAME_LIMIT_BYTES} are allowed")


def keeper_folder(state_folder: Path) -> Path:
    """Private to the user: holds the socket, the lock, the journal and the keeper's log (`keeper.log`, put
    aside as `keeper.log.1` where it has grown to more than 4 MiB)."""
    return state_folder / "keeper"


@contextlib.contextmanager
def socket_address(folder: Path) -> Iterator[str]:
    """The address of the keeper's socket, short enough for AF_UNIX (107 bytes) wherever the folder is."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/keeper.sock"
    finally:
        os.close(descriptor)


def connect(folder: Path) -> socket.socket:
    """A blocking connection. Raises OSError where nobody listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket_address(folder) as address:
            connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection
