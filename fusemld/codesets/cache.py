"""The read-only copies of pinned content below the state folder, by digest."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Collection
from pathlib import Path

from fusemld.codesets.folders import remove

KEPT_S = 3600.0
MIRROR_KEPT_S = 30 * 24 * 3600.0


class Cache:
    """`content/DIGEST` holds the files of one content, complete or not there at all. Blocking.

    Only the holder of the state folder's lock may have one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._content = folder / "content"
        self._temporary = folder / "tmp"
        self.mirrors = folder / "mirrors"
        for place in (folder, self._content, self._temporary, self.mirrors):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in self._temporary.iterdir():
            remove(leftover)

    def path(self, digest: str) -> Path:
        return self._content / digest

    def has(self, digest: str) -> bool:
        """If so, it is kept for another while."""
        try:
            os.utime(self.path(digest))
        except FileNotFoundError:
            return False
        return True

    def temporary(self) -> Path:
        """A name for a new folder; `keep` or `remove` it."""
        return self._temporary / secrets.token_hex(8)

    def keep(self, temporary: Path, digest: str) -> Path:
        """Give a finished temporary folder its place; equal content that is there already stays."""
        target = self.path(digest)
        if target.exists():
            remove(temporary)
            self.has(digest)
        else:
            temporary.rename(target)
        return target

    def sweep(self, in_use: Collection[str]) -> None:
        """Remove what no run needs and nobody asked for lately."""
        now = time.time()
        for content in self._content.iterdir():
            if content.name not in in_use and content.stat().st_mtime < now - KEPT_S:
                doomed = self.temporary()
                content.rename(doomed)
                remove(doomed)
        for mirror in self.mirrors.iterdir():
            if mirror.stat().st_mtime < now - MIRROR_KEPT_S:
                remove(mirror)
