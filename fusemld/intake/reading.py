"""Looking at the watched folder and reading its files: the blocking part, for worker threads."""

from __future__ import annotations

import contextlib
import enum
import fcntl
import hashlib
import os
import pwd
import signal
import stat
from collections.abc import Iterable
from pathlib import Path

import msgspec
import structlog

from fusemld.intake.snapshot import FileReport, FileState, Read, is_document, is_ignored
from fusemld.model.errors import may_pass
from fusemld.model.ids import identity_of
from fusemld.model.problem import Problem
from fusemld.spec.nodes import MAX_BYTES, too_large

log = structlog.get_logger(__name__)

LIMIT_BYTES = MAX_BYTES


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """One walk over the folder. `folders` are relative, the watched one (`.`) first; `identity` is that of the
    watched one; `unreadable` are the folders that could not be listed, with the cause."""

    files: dict[str, FileState]
    folders: tuple[str, ...]
    identity: str
    unreadable: dict[str, str] = {}


class Skipped(enum.Enum):
    """Why a file was not taken: it is `GONE`, or it is not complete (`OPEN` for writing, or `CHANGING` while it
    was read), or it is not known whether it is (`UNSURE`), or this process has not what it takes (`NOT_NOW`)."""

    GONE = enum.auto()
    OPEN = enum.auto()
    CHANGING = enum.auto()
    UNSURE = enum.auto()
    NOT_NOW = enum.auto()


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was read, or refused. `mark` is equal for equal bytes of the same owner."""

    state: FileState
    mark: str
    report: FileReport


def look(folder: Path) -> Look:
    """Walk over the folder. Raises OSError if it cannot be listed itself."""
    top = folder.stat()
    files: dict[str, FileState] = {}
    folders: list[str] = []
    unreadable: dict[str, str] = {}
    queue = ["."]
    while queue:
        place = queue.pop()
        try:
            with os.scandir(folder / place) as entries:
                folders.append(place)
                for entry in entries:
                    if is_ignored(entry.name):
                        continue
                    path = entry.name if place == "." else f"{place}/{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        queue.append(path)
                    elif is_document(path):
                        with contextlib.suppress(FileNotFoundError):
                            files[path] = _state(path, _followed(entry))
        except OSError as error:
            if place == ".":
                raise
            if not isinstance(error, FileNotFoundError):
                unreadable[place] = error.strerror or str(error)
    return Look(files=files, folders=tuple(folders), identity=identity_of(top), unreadable=unreadable)


def gone(folder: Path, identity: str, files: Iterable[str]) -> list[str] | None:
    """Those of the files that are not there; None where the folder is another one than that of the identity: files
    seem to be gone then."""
    try:
        if identity_of(folder.stat()) != identity:
            return None
    except OSError:
        return None
    return [file for file in files if not os.path.lexists(folder / file)]


def take(folder: Path, file: str, read: Read, *, sure: bool, mark: str | None) -> Taken | Skipped:
    """Read and parse one file. If its mark is `mark` still, it is not parsed again and the report is empty.

    `sure` says that its writer was seen to close it. A link is followed only within the folder, and what was
    opened is checked once more, so nobody can swap a link in between. A pipe or a device is never opened. Raises
    nothing: a file at which an error of our own shows is refused with it.
    """
    try:
        return _take(folder, file, read, sure=sure, mark=mark)
    except Exception as error:
        log.exception("intake.file_failed", file=shown(file))
        return _failed(folder / file, shown(file), error)


def _take(folder: Path, file: str, read: Read, *, sure: bool, mark: str | None) -> Taken | Skipped:
    path = folder / file
    try:
        found = path.lstat()
        target = path
        if shown(file) != file:
            return _refused(shown(file), found, "refused: the name of the file is not UTF-8; rename it")
        if stat.S_ISLNK(found.st_mode):
            target = Path(os.path.realpath(path))  # unlike `resolve`, no RuntimeError for a loop
            if not target.is_relative_to(folder.resolve()):
                return _refused(
                    file, found, "refused: the link leaves the watched folder; put the file itself here"
                )
            found = target.lstat()
        if stat.S_ISLNK(found.st_mode):
            return _refused(file, found, "refused: the link leads back to itself")
        if not stat.S_ISREG(found.st_mode):
            return _refused(file, found, "refused: it is not a regular file")
        descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if path.is_symlink():
            return _refused(file, path.lstat(), "refused: the link leads nowhere")
        return Skipped.GONE
    except OSError as error:
        return _unreadable(path, file, error)
    try:
        return _read_open(folder, path, file, descriptor, read, sure=sure, mark=mark)
    except OSError as error:
        return _unreadable(path, file, error)
    finally:
        os.close(descriptor)


def shown(file: str) -> str:
    """The name as text that can be stored and sent: bytes that are not UTF-8 are escaped."""
    return os.fsencode(file).decode("utf-8", "backslashreplace")


def still_open(file: str) -> FileReport:
    """The report of a file that somebody keeps open."""
    message = "not read yet: a program still has it open for writing; it counts once it is closed"
    return FileReport(file=file, problems=(Problem(message=message),), readable=False)


def _read_open(
    folder: Path, path: Path, file: str, descriptor: int, read: Read, *, sure: bool, mark: str | None
) -> Taken | Skipped:
    real = Path(f"/proc/self/fd/{descriptor}").readlink()
    if not real.is_relative_to(folder.resolve()):
        return Skipped.CHANGING
    before = os.fstat(descriptor)
    match _is_being_written(descriptor):
        case True:
            return Skipped.OPEN
        case None if not sure:
            return Skipped.UNSURE
    if before.st_size > LIMIT_BYTES:
        return _refused(file, before, too_large(before.st_size))
    data = b""
    while len(data) <= LIMIT_BYTES and (more := os.read(descriptor, LIMIT_BYTES + 1 - len(data))):
        data += more
    after = os.fstat(descriptor)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or len(data) != after.st_size:
        return Skipped.CHANGING
    now = f"{after.st_uid}:{hashlib.sha256(data).hexdigest()}"
    state = _state(file, after)
    owner = _user(after.st_uid)
    if now == mark:
        return Taken(state=state, mark=now, report=FileReport(file=file, owner=owner))
    parsed = read(data, path)
    report = FileReport(file=file, state=state, owner=owner, documents=parsed.documents, problems=parsed.problems)
    return Taken(state=state, mark=now, report=report)


def _is_being_written(descriptor: int) -> bool | None:
    """Whether any program has the file open for writing; None if the kernel does not say (a file of somebody else
    without CAP_LEASE, some network file systems).

    A read lease is granted only on a file that nobody has open for writing (fcntl(2)); it is given back at once.
    Should a writer come in between, it waits for that, and we get SIGURG, which does nothing, in place of SIGIO.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def _refused(file: str, found: os.stat_result, message: str) -> Taken:
    now = f"{found.st_uid}:refused: {message}"
    report = FileReport(file=file, owner=_user(found.st_uid), problems=(Problem(message=message),))
    return Taken(state=_state(file, found), mark=now, report=report)


def _failed(path: Path, file: str, error: Exception) -> Taken | Skipped:
    try:
        found = path.lstat()
        with contextlib.suppress(OSError):
            found = path.stat()
    except OSError:
        return Skipped.GONE
    cause = f"{type(error).__name__}: {error}"
    return _refused(file, found, f"refused: it cannot be read because of an error of fusemld's own: {cause}")


def _unreadable(path: Path, file: str, error: OSError) -> Taken | Skipped:
    if may_pass(error):
        return Skipped.NOT_NOW
    try:
        found = path.stat()
    except OSError:
        return Skipped.GONE
    problem = Problem(message=f"cannot read the file: {error.strerror or error}")
    report = FileReport(file=file, owner=_user(found.st_uid), problems=(problem,), readable=False)
    return Taken(state=_state(file, found), mark=f"{found.st_uid}:unreadable: {error.errno}", report=report)


def _followed(entry: os.DirEntry[str]) -> os.stat_result:
    """The state behind a link, so that a change there is seen; the link's own where it leads nowhere."""
    try:
        return entry.stat()
    except OSError:
        return entry.stat(follow_symlinks=False)


def _state(file: str, found: os.stat_result) -> FileState:
    return FileState(
        file=file,
        inode=found.st_ino,
        size_bytes=found.st_size,
        mtime_ns=found.st_mtime_ns,
        ctime_ns=found.st_ctime_ns,
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
