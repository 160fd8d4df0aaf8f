"""Log files of attempts: masked before they reach the disk, bounded, with a note on what is not there."""

from __future__ import annotations

import contextlib
import os

from fusemld.executors.masking import Masker

STEP_LIMIT_SETTING = "log.step_limit_bytes"

_TAIL_BYTES = 4096
_TAIL_LINES = 20


class LogFile:
    """Created by the first byte, appended to where it exists (`size_bytes` are in it then). A log that cannot be
    written never stops what it is of: what comes is dropped, and a note says why. `setting` is where somebody can
    have another limit."""

    def __init__(
        self,
        path: bytes | str,
        limit_bytes: int,
        patterns: tuple[bytes, ...],
        *,
        setting: str = "",
        size_bytes: int = 0,
    ) -> None:
        self.size_bytes = size_bytes
        self._path = path
        self._file = -1
        self._limit = limit_bytes
        self._limit_name = f"{limit_bytes} bytes" + (f" (setting {setting})" if setting else "")
        self._masker = Masker(patterns)
        self._tail = _end_of(path, size_bytes) if size_bytes else b""
        self._cut_bytes = 0
        self._broken = ""
        self._closed = False

    @property
    def is_settled(self) -> bool:
        """All that was fed is in the file: nothing is held back because it may be the beginning of a secret."""
        return not self._masker.holds_back

    @property
    def tail(self) -> str:
        return last_lines(self._tail)

    def feed(self, data: bytes) -> None:
        self._take(self._masker.feed(data))

    def close(self) -> None:
        """Write what is left, and the note on what is not there."""
        if self._closed:
            return
        self._closed = True
        self._take(self._masker.finish())
        if self._cut_bytes:
            self._note(f"the log is limited to {self._limit_name}: {self._cut_bytes} bytes more were dropped here")
        if self._broken:
            self._note(f"the log is not complete: {self._broken}")
        self.suspend()

    def suspend(self) -> None:
        """Whatever is held back or to be noted is left to somebody else."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._closed = True

    def note(self, text: str) -> None:
        """A line of our own, beyond the limit, where the log is now."""
        self._take(self._masker.finish())
        self._note(text)

    def _take(self, data: bytes) -> None:
        if not data:
            return
        self._tail = (self._tail + data[-_TAIL_BYTES:])[-_TAIL_BYTES:]
        left = max(0, self._limit - self.size_bytes)
        kept, rest = data[:left], len(data) - left
        if rest > 0:
            self._cut_bytes += rest
        if kept:
            self.size_bytes += len(kept)
            self._write(kept)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            if self._file < 0:
                self._file = _open(self._path)
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            self._broken = os.strerror(error.errno or 0)

    def _note(self, text: str) -> None:
        line = noted(text)
        self._tail += line
        with contextlib.suppress(OSError):
            if self._file < 0:
                self._file = _open(self._path)
            os.write(self._file, line)


def noted(text: str) -> bytes:
    """A line of our own in a log."""
    return f"\n[fusemld: {text}]\n".encode()


def last_lines(data: bytes) -> str:
    """At most 20 lines and 4 KiB of the end, for people."""
    lines = data[-_TAIL_BYTES:].decode(errors="replace").splitlines()
    return "\n".join(lines[-_TAIL_LINES:])


def tail_of(log: str) -> str:
    """The last lines of a (masked) log file, empty where there is none."""
    return last_lines(_end_of(log))


def _end_of(path: bytes | str, size_bytes: int | None = None) -> bytes:
    """Of its first `size_bytes`, or of all that it has."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - the keeper does not need pathlib for this
            end = os.fstat(file.fileno()).st_size if size_bytes is None else size_bytes
            file.seek(max(0, end - _TAIL_BYTES))
            return file.read(min(end, _TAIL_BYTES))
    except OSError:
        return b""


def _open(path: bytes | str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120 - paths are bytes
        return os.open(path, flags, 0o600)
