"""Takes what a process prints from its pipe to its log file, masked and bounded."""

from __future__ import annotations

import os

from fusemld.executors.log_files import LogFile

_CHUNK_BYTES = 64 * 1024
"""One turn's share, so that a flood from one process does not starve the others."""


class Pump:
    """What cannot be written to the log is read all the same: it never stops the process."""

    def __init__(
        self, descriptor: int, log: bytes, limit_bytes: int, patterns: tuple[bytes, ...], *, setting: str = ""
    ) -> None:
        self.descriptor = descriptor
        self.at_end = False
        self._log = LogFile(log, limit_bytes, patterns, setting=setting)
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
        self._log.feed(data)
        return True

    def note(self, text: str) -> None:
        self._log.note(text)

    def close(self) -> None:
        """Write what is left, and the note on what is not there."""
        if self._closed:
            return
        self._closed = True
        os.close(self.descriptor)
        self._log.close()

    @property
    def tail(self) -> str:
        return self._log.tail
