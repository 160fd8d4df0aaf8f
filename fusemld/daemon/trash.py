"""Removing folders without ever showing half of one; blocking."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from fusemld.codesets.folders import remove
from fusemld.model import faults
from fusemld.model.errors import may_pass

NAME = ".trash"


class Trash:
    """The place, on the file system of `folder`, where what is to be removed is out of everybody's sight."""

    def __init__(self, folder: Path) -> None:
        self._place = folder / NAME

    def place(self) -> Path:
        """Where a folder may be moved to: a name in it that nothing has. On a disk that is too full for one folder
        more it is the place itself: what goes first becomes it. Names are short: many fit into the one block that
        a folder has at the least."""
        try:
            self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            if not may_pass(error):
                raise
            return self._place
        return self._place / secrets.token_hex(8)

    def take(self, path: Path) -> Path:
        """Move a folder here, at once and as a whole; returns where it is now. There is never half of a file, so
        files stay until they are removed."""
        if not path.is_dir() or path.is_symlink():
            return path
        taken = self.place()
        path.rename(taken)
        return taken

    def remove(self, taken: Path) -> None:
        faults.point("retention.discarded")
        remove(taken)

    def empty(self) -> None:
        """Remove what an earlier life left in it."""
        if self._place.is_dir():
            for leftover in self._place.iterdir():
                remove(leftover)


def size_bytes(path: Path) -> int:
    """What the files of a tree take on the disk. What goes meanwhile does not count."""
    total, queue = 0, [str(path)]
    while queue:
        place = queue.pop()
        try:
            found = os.lstat(place)
            total += found.st_blocks * 512
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        queue.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except (FileNotFoundError, NotADirectoryError):
            continue
    return total
