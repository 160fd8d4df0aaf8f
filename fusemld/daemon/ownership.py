"""Whose the state folder is. What root makes there, a daemon that is not root could not use."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from fusemld.model.errors import StartError


def refuse_another(state: Path) -> None:
    """Raises `StartError` where this is root and the folder belongs to somebody else."""
    if owner := _another(state):
        name = _name(owner.st_uid)
        raise StartError(
            f"cannot use the state folder {state}: it belongs to the user {name}; start the daemon as {name} "
            "(`systemctl start fusemld` where it is a service), or choose another --state"
        )


@contextlib.contextmanager
def as_owner(state: Path) -> Iterator[None]:
    """Root is the user to whom the folder belongs meanwhile, in all threads; nobody else changes."""
    owner = _another(state)
    if owner is None:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def _another(state: Path) -> os.stat_result | None:
    """The folder, where it is there, this is root and it belongs to somebody else."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        found = state.stat()
        if found.st_uid != 0:
            return found
    return None


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
