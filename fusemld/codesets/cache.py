"""The read-only copies of pinned content below the state folder, by digest."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from fusemld.codesets.folders import remove
from fusemld.model import faults

KEPT_S = 3600.0
"""The least time that content is kept after it was asked for: its run may not be recorded yet."""


class Copy(msgspec.Struct, frozen=True):
    """Of a content, or of the history of a repository. `digest` is empty for the latter."""

    path: Path
    digest: str
    used_at: float


class Cache:
    """`content/DIGEST` holds the files of one content, complete or not there at all. Blocking.

    Only the holder of the state folder's lock may have one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._content = folder / "content"
        self._temporary = folder / "tmp"
        self.mirrors = folder / "mirrors"
        self._giving = threading.Lock()
        """Content that is asked for must not go at that moment."""
        for place in (folder, self._content, self._temporary, self.mirrors):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in self._temporary.iterdir():
            remove(leftover)

    def path(self, digest: str) -> Path:
        return self._content / digest

    def has(self, digest: str) -> bool:
        """If so, it is kept for another while."""
        with self._giving:
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
        if self.has(digest):
            remove(temporary)
        else:
            faults.point("codesets.copied")
            temporary.rename(target)
        return target

    def copies(self) -> Iterator[Copy]:
        for content in self._content.iterdir():
            yield Copy(content, content.name, content.stat().st_mtime)
        for mirror in self.mirrors.iterdir():
            yield Copy(mirror, "", mirror.stat().st_mtime)

    def discard(self, copy: Copy, unused_since: float, *, dry_run: bool = False) -> bool:
        """Remove it, unless it was asked for since that time; never what was within the last `KEPT_S`. Whether it
        is gone, or with `dry_run` would be."""
        with self._giving:
            if copy.path.stat().st_mtime >= min(unused_since, time.time() - KEPT_S):
                return False
            if dry_run:
                return True
            doomed = self.temporary()
            copy.path.rename(doomed)
        faults.point("codesets.discarded")
        remove(doomed)
        return True
