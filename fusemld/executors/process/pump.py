"""Takes what a process prints from its pipe to its log file, masked and bounded."""

from __future__ import annotations

import contextlib
import os

from fusemld.executors.process.masking import Masker

_CHUNK_BYTES = 64 * 1024
"""One turn's share, so that a flood from one process does not starve the others."""
_TAIL_BYTES = 4096
_TAIL_LINES = 20


class Pump:
    """The log file is created by the first byte. A log that cannot be written never stops the process:
    what it prints is dropped, and a note says why."""

    def __init__(self, descriptor: int, log: bytes, limit_bytes: int, patterns: tuple[bytes, ...]) -> None:
        self.descriptor = descriptor
        self.at_end = False
        self._log = log
        self._file = -1
        self._left = limit_bytes
        self._limit = limit_bytes
        self._masker = Masker(patterns)
        self._tail = b""
        self._cut_bytes = 0
        self._broken = ""
        self._closed = False

    def read(self) -> bool:
        """Move what one turn allows; False when there is nothing more for now, or for ever (`at_end`)."""
        if self.at_end:
            return False
        try:
            data = os.read(self.descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self.at_end = True
            return False
        self._take(self._masker.feed(data))
        return True

    def close(self) -> None:
        """Write what is left, and the note on what is not there."""
        if self._closed:
            return
        self._closed = True
        os.close(self.descriptor)
        self._take(self._masker.finish())
        if self._cut_bytes:
            self._note(f"the log is limited to {self._limit} bytes: {self._cut_bytes} more were dropped here")
        if self._broken:
            self._note(f"the log is not complete: {self._broken}")
        if self._file >= 0:
            os.close(self._file)

    @property
    def tail(self) -> str:
        return last_lines(self._tail)

    def _take(self, data: bytes) -> None:
        if not data:
            return
        self._tail = (self._tail + data[-_TAIL_BYTES:])[-_TAIL_BYTES:]
        kept, rest = data[: self._left], len(data) - self._left
        if rest > 0:
            self._cut_bytes += rest
        if kept:
            self._left -= len(kept)
            self._write(kept)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            if self._file < 0:
                self._file = _open_log(self._log)
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            self._broken = os.strerror(error.errno or 0)

    def _note(self, text: str) -> None:
        line = f"\n[fusemld: {text}]\n".encode()
        self._tail += line
        with contextlib.suppress(OSError):
            if self._file < 0:
                self._file = _open_log(self._log)
            os.write(self._file, line)


def last_lines(data: bytes) -> str:
    """At most 20 lines and 4 KiB of the end, for people."""
    lines = data[-_TAIL_BYTES:].decode(errors="replace").splitlines()
    return "\n".join(lines[-_TAIL_LINES:])


def tail_of(log: str) -> str:
    """The last lines of a (masked) log file, empty where there is none."""
    try:
        with open(log, "rb") as file:  # noqa: PTH123 - the keeper does not need pathlib for this
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            return last_lines(file.read(_TAIL_BYTES))
    except OSError:
        return ""


def _open_log(path: bytes) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120 - paths are bytes
        return os.open(path, flags, 0o600)
