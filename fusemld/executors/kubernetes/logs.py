"""The log of a step's container on its way to the daemon's disk, without loss or repetition wherever it is cut."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import anyio
import msgspec
import structlog

from fusemld.executors.log_files import STEP_LIMIT_SETTING, LogFile, noted
from fusemld.model.backoff import backoff_s
from fusemld.model.errors import FusemldError, InvalidInputError, UnavailableError

_log: structlog.stdlib.BoundLogger = structlog.get_logger()

_LONGEST_STAMP = 40
_WHOLE_LINE = sys.maxsize
_FIRST_PAUSE_S = 2.0
"""After a log that is followed has ended: most often the container has, and its end is about to be known."""
_LONGEST_PAUSE_S = 30.0
_SILENCE_S = 10.0
"""How long a log that is only read may be silent."""
_FOLLOWED_SILENCE_S = 300.0
"""A log that is followed and says nothing for so long is asked for again: its connection may be dead."""
_RECORD_BYTES = 160
_GAP = noted("lines may be missing here: the node began a new log file before the one before was read to its end")
"""Kubelet does so every 10 MiB unless told otherwise, and shows the newest only."""


class Logs(Protocol):
    """What is needed of `fusemld.kube.client.KubeCluster`."""

    def logs(
        self, path: str, *, params: Mapping[str, str] | None = None, silence_s: float | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]: ...


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a log is in its file, of which that is `size_bytes`: all that was before the line with this
    timestamp, `lines` lines that have it, and of the last of those `line_bytes` bytes."""

    timestamp: str = ""
    lines: int = 0
    line_bytes: int = 0
    size_bytes: int = 0


class Stamps:
    """Takes the timestamps off the lines of a log (`timestamps=true`), and after `resume` also the lines, or parts
    of a line, that it has seen before. The server repeats the whole second in which a log is resumed: where not
    all that was seen of it comes again, a note says that there is a gap."""

    def __init__(self, position: Position) -> None:
        self._stamp = position.timestamp.encode()
        self._lines = position.lines
        self._line_bytes = position.line_bytes
        self._head = b""
        self._in_line = False
        self._skip = 0
        self._replayed = 0
        self._replaying = False

    def position(self, size_bytes: int) -> Position:
        return Position(
            timestamp=self._stamp.decode(),
            lines=self._lines,
            line_bytes=self._line_bytes,
            size_bytes=size_bytes,
        )

    def resume(self) -> str:
        """What comes next is another stream, which is to begin at the timestamp that is returned; empty: from the
        beginning."""
        self._head = b""
        self._in_line = False
        self._replayed = 0
        self._replaying = bool(self._stamp)
        return self._stamp.decode()

    def feed(self, data: bytes) -> bytes:
        data = self._head + data
        self._head = b""
        found: list[bytes] = []
        start, end = 0, len(data)
        while start < end:
            if not self._in_line:
                space = data.find(b" ", start, start + _LONGEST_STAMP)
                if space < 0 and end - start < _LONGEST_STAMP and b"\n" not in data[start:]:
                    self._head = data[start:]
                    break
                self._in_line = True
                if _is_stamp(stamp := data[start:space]):
                    if self._begin(stamp):
                        found.append(_GAP)
                    start = space + 1
                else:
                    # What the node says about a log that it cannot read has none.
                    self._skip = 0
            newline = data.find(b"\n", start)
            stop = end if newline < 0 else newline + 1
            found.append(self._pass(data[start:stop]))
            self._in_line = newline < 0
            start = stop
        return b"".join(found)

    def finish(self) -> bytes:
        """The stream was sent to its end."""
        is_gap = self._replaying and self._replayed < self._lines
        self._replaying = False
        return _GAP if is_gap else b""

    def _begin(self, stamp: bytes) -> bool:
        """A line begins. Whether some that were before it did not come."""
        is_gap = False
        if self._replaying:
            if stamp == self._stamp:
                self._replayed += 1
                if self._replayed <= self._lines:
                    self._skip = _WHOLE_LINE if self._replayed < self._lines else self._line_bytes
                    return False
            elif _moment(stamp) < _moment(self._stamp):
                self._skip = _WHOLE_LINE
                return False
            self._replaying = False
            is_gap = self._replayed < self._lines
        self._skip = 0
        self._lines = self._lines + 1 if stamp == self._stamp else 1
        self._stamp = stamp
        self._line_bytes = 0
        return is_gap

    def _pass(self, piece: bytes) -> bytes:
        if self._skip:
            if self._skip is not _WHOLE_LINE and len(piece) > self._skip:
                piece = piece[self._skip :]
                self._skip = 0
            else:
                self._skip = _WHOLE_LINE if self._skip is _WHOLE_LINE else self._skip - len(piece)
                return b""
        self._line_bytes += len(piece)
        return piece


class AttemptLog:
    """The log of one container. `marker` is the file that remembers the position for the next daemon, only where
    the log is followed. Reading raises what `KubeCluster.logs` does; what was read stays. Nobody reads while
    somebody else does."""

    def __init__(
        self, cluster: Logs, path: str, container: str, file: Path, marker: Path, *, limit_bytes: int
    ) -> None:
        self._cluster = cluster
        self._path = path
        self._container = container
        self._file_path = file
        self._limit_bytes = limit_bytes
        self._marker = Marker(marker)
        self._file: LogFile | None = None
        self._stamps = Stamps(Position())
        self._cut_to: int | None = None
        """Bytes of the file that stay when more is about to come."""
        self._reading = anyio.Lock(fast_acquire=True)
        self._closed = False

    def open(self, patterns: tuple[bytes, ...], *, resumed: bool) -> None:
        """Before anything is read. `resumed`: the file may hold what an earlier daemon has read; what goes beyond
        the position that it remembered is taken off and read again, once it can be."""
        position = self._marker.read() if resumed else Position()
        self._cut_to = position.size_bytes if resumed else None
        self._stamps = Stamps(position)
        path = os.fsencode(self._file_path)
        self._file = LogFile(
            path, self._limit_bytes, patterns, setting=STEP_LIMIT_SETTING, size_bytes=position.size_bytes
        )

    @property
    def is_open(self) -> bool:
        return self._file is not None

    @property
    def tail(self) -> str:
        return self._file.tail if self._file else ""

    async def follow(self) -> None:
        """Until cancelled, whatever the answers are. A refusal, or that there is no such pod, may be one of an API
        server or a kubelet that has just started."""
        tries = 0
        told = ""
        while True:
            try:
                if await self._read(follow=True):
                    tries = 0
            except (UnavailableError, InvalidInputError):
                pass
            except FusemldError as error:
                if str(error) != told:
                    told = str(error)
                    _log.warning("pod.log_not_followed", path=self._path, error=told)
            tries += 1
            await anyio.sleep(backoff_s(tries, _FIRST_PAUSE_S, _LONGEST_PAUSE_S))

    async def read(self) -> None:
        """What there is and was not read yet."""
        await self._read(follow=False)

    def note(self, text: str) -> None:
        if self._file:
            self._file.note(text)

    def close(self) -> None:
        """The log is as complete as it will be. The next daemon might read it again until it is forgotten."""
        if self._file and not self._closed:
            self._closed = True
            self._file.close()
            if self._marker.is_used:
                self._marker.write(self._stamps.position(self._file.size_bytes))
        self._marker.close()

    def suspend(self) -> None:
        """Leave it to the next daemon."""
        if self._file:
            self._file.suspend()
        self._marker.close()

    def forget(self) -> None:
        """The file stays."""
        self.suspend()
        self._marker.remove()

    async def _read(self, *, follow: bool) -> bool:
        """Whether anything came."""
        async with self._reading:
            return await self._read_alone(follow=follow)

    async def _read_alone(self, *, follow: bool) -> bool:
        assert self._file is not None, "a log is opened before it is read"
        params = {"container": self._container, "timestamps": "true"}
        if since := self._stamps.resume():
            params["sinceTime"] = since
        if follow:
            params["follow"] = "true"
        came = False
        silence_s = _FOLLOWED_SILENCE_S if follow else _SILENCE_S
        async with self._cluster.logs(self._path, params=params, silence_s=silence_s) as chunks:
            if self._cut_to is not None:
                with contextlib.suppress(OSError):  # where it is there, the first write fails too, and tells
                    os.truncate(self._file_path, self._cut_to)
                self._cut_to = None
            async for chunk in chunks:
                came = True
                self._file.feed(self._stamps.feed(chunk))
                if follow and self._file.is_settled:
                    self._marker.write(self._stamps.position(self._file.size_bytes))
            if not follow:
                self._file.feed(self._stamps.finish())
        return came


class Marker:
    """A position on the disk: one write of one size, which a kill cannot tear. One that cannot be written costs
    the next daemon a second reading, and nothing else."""

    def __init__(self, path: Path) -> None:
        self.is_used = False
        self._path = path
        self._descriptor = -1

    def read(self) -> Position:
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=Position)
        except (OSError, msgspec.MsgspecError):
            return Position()
        self.is_used = True
        return found

    def write(self, position: Position) -> None:
        self.is_used = True
        with contextlib.suppress(OSError):
            if self._descriptor < 0:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.pwrite(self._descriptor, msgspec.json.encode(position).ljust(_RECORD_BYTES), 0)

    def remove(self) -> None:
        if self.is_used:
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _is_stamp(text: bytes) -> bool:
    return text[:2].isdigit() and text[10:11] == b"T"


def _moment(stamp: bytes) -> tuple[datetime, bytes]:
    """In order of time: RFC 3339 with up to nine digits, in whatever time zone the node has."""
    whole, _, rest = stamp.partition(b".")
    digits = rest.rstrip(b"Z")
    zone = b"Z"
    for sign in (b"+", b"-"):
        if sign in digits:
            digits, _, offset = digits.partition(sign)
            zone = sign + offset
    if not rest:
        return datetime.fromisoformat(stamp.decode()).astimezone(UTC), b""
    return datetime.fromisoformat((whole + zone).decode()).astimezone(UTC), digits.ljust(9, b"0")
