"""Trees of files on this host: walking, hashing and copying them. Blocking: for worker threads.

What counts of a tree are the paths, whether a file is executable, and the bytes. `.git` and `__pycache__` are left
out. Links are kept as they are if they stay inside; pipes, sockets and devices are refused.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from fusemld.model.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError

LEFT_OUT = frozenset({".git", "__pycache__"})
CHUNK_BYTES = 1024 * 1024
FICLONE = 0x40049409  # linux/fs.h
TRIES = 3


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a tree as `lstat` saw it. `target` is set for a link, `path` is relative."""

    path: str
    mode: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    target: str | None = None

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_executable(self) -> bool:
        return bool(self.mode & 0o111)


Listing = tuple[Entry, ...]


class Content(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    size_bytes: int


def refusal(path: str, roots: tuple[Path, ...]) -> str:
    """Why nothing is taken from there, empty where it is really below one of `roots`."""
    real = _real(path)
    if any(real.is_relative_to(root.resolve()) for root in roots):
        return ""
    return (
        f"{path} is outside the folders that codesets may come from; "
        "an administrator can allow it with the setting codesets.roots"
    )


def allowed(path: str, roots: tuple[Path, ...], what: str) -> Path:
    """The real folder. Raises ForbiddenError where it is not below one of `roots`, NotFoundError where there is
    none."""
    if refused := refusal(path, roots):
        raise ForbiddenError(f"cannot use {what}: {refused}")
    real = _real(path)
    if not real.is_dir():
        raise NotFoundError(f"cannot use {what}: there is no folder {path}")
    return real


def _real(path: str) -> Path:
    """Unlike `Path.resolve` it raises nothing, whatever the links do."""
    return Path(os.path.realpath(path))


def listing(root: Path, limit_bytes: int) -> Listing:
    """Everything that counts below `root`, in order of path. Raises InvalidInputError naming what cannot be
    taken."""
    entries = tuple(sorted(_walk(root), key=lambda entry: entry.path))
    size_bytes = sum(entry.size_bytes for entry in entries if entry.is_file)
    if size_bytes > limit_bytes:
        raise InvalidInputError(
            f"cannot take {root}: it holds {size_bytes} bytes, more than the {limit_bytes} that the setting "
            "codesets.limit_bytes allows"
        )
    return entries


def hashed(root: Path, entries: Listing) -> Content:
    """Read every file."""
    return _digest(entries, {entry.path: _hash_file(root / entry.path) for entry in entries if entry.is_file})


def copied(root: Path, target: Path, limit_bytes: int) -> tuple[Content, Listing]:
    """Copy what counts to the new folder `target`; files become read-only. The digest is of what was copied, and
    the tree did not change meanwhile. Raises ConflictError if it never keeps still."""
    for _ in range(TRIES):
        entries = listing(root, limit_bytes)
        target.mkdir(parents=True)
        try:
            digests = dict(_copy(root, target, entries))
            if listing(root, limit_bytes) == entries:
                return _digest(entries, digests), entries
        except FileNotFoundError:
            pass
        remove(target)
    raise ConflictError(f"cannot copy {root}: its files keep changing; try again when they are at rest")


def leaves(path: str, target: str) -> bool:
    """Whether the link at `path` leads out of its tree. It is kept as text, so an absolute one always does: it
    would not lead into the copy."""
    end = os.path.normpath(Path(path).parent / target)
    return target.startswith("/") or end == ".." or end.startswith("../")


def remove(root: Path) -> None:
    """Delete a tree; nothing is there afterwards, whatever was before."""
    if root.is_symlink() or root.is_file():
        root.unlink()
    elif root.exists():
        shutil.rmtree(root)


def _walk(root: Path) -> Iterator[Entry]:
    queue = [""]
    while queue:
        place = queue.pop()
        with os.scandir(root / place) as found:
            for item in found:
                if item.name in LEFT_OUT:
                    continue
                path = f"{place}/{item.name}" if place else item.name
                state = item.stat(follow_symlinks=False)
                target = None
                if stat.S_ISDIR(state.st_mode):
                    queue.append(path)
                elif stat.S_ISLNK(state.st_mode):
                    target = str(Path(item.path).readlink())
                    if leaves(path, target):
                        raise InvalidInputError(
                            f"cannot take {root}: the link {path} -> {target} leaves the codeset"
                        )
                elif not stat.S_ISREG(state.st_mode):
                    raise InvalidInputError(f"cannot take {root}: {path} is neither file, folder nor link")
                yield Entry(
                    path=path,
                    mode=state.st_mode,
                    inode=state.st_ino,
                    size_bytes=state.st_size if stat.S_ISREG(state.st_mode) else 0,
                    mtime_ns=state.st_mtime_ns,
                    ctime_ns=state.st_ctime_ns,
                    target=target,
                )


def _copy(root: Path, target: Path, entries: Listing) -> Iterator[tuple[str, str]]:
    for entry in entries:
        place = target / entry.path
        if entry.is_folder:
            place.mkdir()
        elif entry.target is not None:
            place.symlink_to(entry.target)
        else:
            _copy_file(root / entry.path, place)
            place.chmod(0o555 if entry.is_executable else 0o444)
            yield entry.path, _hash_file(place)


def _copy_file(source: Path, target: Path) -> None:
    """Share the blocks where the file system can, else copy inside the kernel. Never follows a link."""
    reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if not _clone(reading, writing):
                while os.sendfile(writing, reading, None, CHUNK_BYTES * 64):
                    pass
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _clone(reading: int, writing: int) -> bool:
    try:
        fcntl.ioctl(writing, FICLONE, reading)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
            raise
        return False
    return True


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while data := file.read(CHUNK_BYTES):
            digest.update(data)
    return digest.hexdigest()


def _digest(entries: Listing, digests: dict[str, str]) -> Content:
    total = hashlib.sha256()
    for entry in entries:
        if entry.is_folder:
            kind, rest = "folder", ""
        elif entry.target is not None:
            kind, rest = "link", entry.target
        else:
            kind, rest = ("program" if entry.is_executable else "file"), digests[entry.path]
        total.update("\0".join((kind, entry.path, rest)).encode("utf-8", "surrogateescape") + b"\0\n")
    return Content(
        digest=total.hexdigest(), size_bytes=sum(entry.size_bytes for entry in entries if entry.is_file)
    )
