"""What one look at the watched folder saw, and what changed between two looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Protocol

import msgspec

from fusemld.model.document import Document, RememberedFile
from fusemld.model.problem import Problem

SUFFIXES = (".yaml", ".yml")
IGNORED = (".*", "*~", "#*#", "*.sw?", "*.tmp", "*.part", "*.bak")
"""Names of hidden files and folders, of editors' backups and of temporary files."""


class FileState(msgspec.Struct, frozen=True, kw_only=True):
    """What `stat` says of a file; `file` is relative to the watched folder. Whoever writes to a file cannot hide
    it: the change time is the kernel's."""

    file: str
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int


Snapshot = Mapping[str, FileState]

RESTED_NS = 2_000_000_000
"""A file that changed this shortly before it was read may change again without another time stamp: what `stat`
says of it then is no proof of its content, now or later."""


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Names in order. A file is in at most one of the three."""

    appeared: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class Parsed(Protocol):
    """What reading the text of a file gives: the good documents, and what is wrong with the others."""

    @property
    def documents(self) -> tuple[Document, ...]: ...

    @property
    def problems(self) -> tuple[Problem, ...]: ...


Read = Callable[[bytes, Path], Parsed]


class FileReport(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a file that is complete. `readable` is False where it could not be read this time: what it
    declared before stays, `problems` says why. `state` is how the file looked."""

    file: str
    state: FileState | None = None
    owner: str = ""
    documents: tuple[Document, ...] = ()
    problems: tuple[Problem, ...] = ()
    readable: bool = True


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """News from the watched folder: files whose bytes are new, and files that are gone.

    `taken` are files, of this scan or earlier ones, as they were when they were read.
    `available` is False while the folder itself cannot be seen; then there is no other news. `warning` says
    what works worse than it should, empty where all is well. `identity` tells this folder from another one of that
    name, `DEVICE:INODE`.
    """

    files: tuple[FileReport, ...] = ()
    removed: tuple[str, ...] = ()
    taken: tuple[RememberedFile, ...] = ()
    available: bool = True
    warning: str = ""
    identity: str = ""


def is_ignored(name: str) -> bool:
    """Whether a name (without folders) is hidden, an editor's backup or temporary."""
    return any(fnmatchcase(name, pattern) for pattern in IGNORED)


def is_document(file: str) -> bool:
    """Whether a path relative to the watched folder is to be read at all."""
    parts = PurePosixPath(file).parts
    return bool(parts) and parts[-1].endswith(SUFFIXES) and not any(is_ignored(part) for part in parts)


def diff(before: Snapshot, now: Snapshot) -> Changes:
    return Changes(
        appeared=tuple(sorted(now.keys() - before.keys())),
        changed=tuple(sorted(file for file in now.keys() & before.keys() if now[file] != before[file])),
        removed=tuple(sorted(before.keys() - now.keys())),
    )


def settled(taken: Snapshot, earlier: Snapshot, now: Snapshot, *, rested_since_ns: int = 0) -> tuple[str, ...]:
    """The files to take now although nobody saw them being closed: those that differ from what was taken and that
    two looks, `earlier` and `now`, found unchanged, or that have not changed since `rested_since_ns` (since the
    epoch): an earlier look would have found them as they are."""
    news = diff(taken, now)
    return tuple(
        file
        for file in sorted((*news.appeared, *news.changed))
        if earlier.get(file) == now[file] or now[file].ctime_ns < rested_since_ns
    )
