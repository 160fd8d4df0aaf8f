"""One daemon per state folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from fusemld.daemon.ownership import as_owner
from fusemld.model.errors import StartError


@contextlib.contextmanager
def state_lock(state: Path) -> Iterator[None]:
    """Hold the exclusive lock of the state folder, which is created, private, if need be."""
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with as_owner(state):
            descriptor = os.open(state / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"cannot use the state folder {state}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "another process"
            raise StartError(
                f"cannot use the state folder {state}: a daemon (process {holder}) is using it; "
                "`fusemld stop` stops it"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)
