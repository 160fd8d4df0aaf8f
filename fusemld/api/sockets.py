"""The socket that the daemon listens on: private from the first instant, never taken from a live daemon."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fusemld.model.errors import StartError

PATH_LIMIT_BYTES = 107
"""`sun_path` of Linux, less the closing zero."""


@contextmanager
def listening_socket(path: Path, group: int | None = None) -> Iterator[socket.socket]:
    """A bound socket, not listening yet, that only this user (and the group) may connect to.

    A missing folder is made with mode 0700 (0750 with a group). Raises `StartError` where the path is too
    long, the folder is open to everybody, or another daemon listens there. A socket that nobody listens on is
    replaced. The socket file is removed at the end, unless somebody else has replaced it.
    """
    if len(os.fsencode(path)) > PATH_LIMIT_BYTES:
        raise StartError(
            f"cannot listen on {path}: the path of a socket has at most {PATH_LIMIT_BYTES} bytes, this one has "
            f"{len(os.fsencode(path))}; choose a shorter one with --socket or FUSEMLD_SOCKET"
        )
    with ExitStack() as stack:
        try:
            _prepare_folder(path.parent, group)
            stack.callback(os.close, _locked(path))
            bound = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            _remove_stale(path)
            # Linux gives the new file the mode of the socket: no moment in which it is wider, no umask.
            os.fchmod(bound.fileno(), 0o600)
            bound.bind(str(path))
            inode = path.stat().st_ino
            if group is not None:
                os.chown(path, -1, group)
                path.chmod(0o660)
        except OSError as error:
            raise StartError(f"cannot listen on {path}: {error.strerror or error}") from error
        try:
            yield bound
        finally:
            if path.exists() and path.stat().st_ino == inode:
                path.unlink()


def _prepare_folder(folder: Path, group: int | None) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        mode = folder.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise StartError(f"cannot listen in {folder}: anybody may write there") from None
        return
    if group is not None:
        os.chown(folder, -1, group)
        folder.chmod(0o750)


def _locked(path: Path) -> int:
    """A descriptor that holds the lock: two daemons that start at once must not both find one stale socket."""
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StartError(f"cannot listen on {path}: another daemon listens there") from None
    return descriptor


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StartError(f"cannot listen on {path}: there is something that is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StartError(f"cannot listen on {path}: the socket there answers with {error}") from error
        else:
            raise StartError(f"cannot listen on {path}: another daemon listens there")
