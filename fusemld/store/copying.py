"""Copies of the database in single files: complete or not there, private, and on the disk."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import time
from pathlib import Path

from fusemld.model import faults
from fusemld.store import outputs
from fusemld.store.durable import sync

PARTIAL = ".partial"


def copy(source: sqlite3.Connection, target: Path, outputs_folder: Path) -> tuple[str, ...]:
    """Copy what the connection sees now, at one moment, to `target` (mode 0600), in the place of what is there.

    Writers go on meanwhile. What is in files of the source is in the copy itself; of one that is damaged, the copy
    has the name as the source does: returns the runs of such files. Raises `sqlite3.Error`, `StoreError` and
    `OSError`; then there is no new `target`.
    """
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with contextlib.closing(sqlite3.connect(partial, isolation_level=None)) as made:
            # In one step: between two, the copy of a database that others write to begins anew, without end.
            source.backup(made, pages=-1)
            made.execute("PRAGMA journal_mode = DELETE")  # no files beside it
            damaged = _complete(made, source, outputs_folder)
        sync(partial)
        faults.point("backup.copied")
        partial.rename(target)
    finally:
        for suffix in ("", "-journal"):
            partial.with_name(partial.name + suffix).unlink(missing_ok=True)
    sync(target.parent)
    return damaged


def _complete(made: sqlite3.Connection, source: sqlite3.Connection, outputs_folder: Path) -> tuple[str, ...]:
    """Take in the outputs that are in files. Runs of which the source has let go since, with their files, go; the
    others whose files cannot be read are returned."""
    made.execute("PRAGMA synchronous = OFF")  # it is synced as a whole
    made.execute("PRAGMA foreign_keys = ON")
    damaged = outputs.take_in(made, outputs_folder)
    there = "SELECT 1 FROM runs WHERE id = ?"
    gone = {run for run in damaged if source.execute(there, (run,)).fetchone() is None}
    for run in gone:
        made.execute("DELETE FROM runs WHERE id = ?", (run,))
    return tuple(run for run in damaged if run not in gone)


def give_to_owner(path: Path) -> None:
    """Where root has made it, it belongs to the owner of its folder."""
    if os.geteuid() == 0:
        folder = path.parent.stat()
        os.chown(path, folder.st_uid, folder.st_gid)


def damage(connection: sqlite3.Connection) -> str:
    """What SQLite finds wrong with the database, empty if nothing."""
    try:
        found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(3)")]
        found += [
            f"row {row[1]} of {row[0]} has no parent" for row in connection.execute("PRAGMA foreign_key_check")
        ]
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if found == ["ok"] else "; ".join(line for line in found if line != "ok")


def beside(path: Path, what: str) -> Path:
    """`PATH.WHAT.TIME`, a name that nothing has."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    name, number = f"{path.name}.{what}.{moment}", 1
    while os.path.lexists(target := path.with_name(name)):
        number += 1
        name = f"{path.name}.{what}.{moment}-{number}"
    return target


def keep_latest(path: Path, what: str, count: int) -> None:
    """Of the files that `beside` named so, remove all but the latest, and what interrupted copies left."""
    found = sorted(
        path.parent.glob(f"{path.name}.{what}.*"), key=lambda file: (file.stat().st_mtime_ns, file.name)
    )
    for file in (*found[:-count], *path.parent.glob(f".{path.name}.{what}.*{PARTIAL}")):
        file.unlink(missing_ok=True)
