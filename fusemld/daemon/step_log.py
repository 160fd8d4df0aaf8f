"""The log of a step that runs inside the daemon."""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from fusemld.daemon.mask import Mask

log = structlog.get_logger(__name__)

TAIL_LINES = 20
TAIL_BYTES = 64 * 1024


class StepLog:
    """Whole lines, masked before they reach the disk. A disk that takes no more ends the log, not the step."""

    def __init__(self, path: Path, mask: Mask) -> None:
        self.mask = mask
        self._path = path

    def write(self, text: str) -> None:
        line = self.mask(text).rstrip("\n") + "\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(line)
        except OSError as error:
            log.warning("step.log_failed", path=str(self._path), error=str(error))

    def tail(self) -> str:
        """The last lines."""
        try:
            with self._path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-TAIL_LINES:])
