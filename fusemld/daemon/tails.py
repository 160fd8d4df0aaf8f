"""The last line of a log that is still being written: what its step says of itself."""

from __future__ import annotations

import os
from pathlib import Path

LOOK_BYTES = 4096
LONGEST = 200


def last_line(path: Path) -> str:
    """The last line with something on it, without control characters, at most `LONGEST` long; empty if none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOOK_BYTES))
            text = file.read(LOOK_BYTES).decode(errors="replace")
    except OSError:
        return ""
    lines = ("".join(c for c in line if c.isprintable()).strip() for line in reversed(text.splitlines()))
    return next((line[:LONGEST] for line in lines if line), "")
