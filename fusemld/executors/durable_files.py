"""Small files that are whole, also after a crash of the host."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """The file has this content and nothing of another one, on the disk when it returns. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replacement = path.with_suffix(".new")
    with replacement.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    replacement.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
