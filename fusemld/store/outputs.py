"""Outputs of steps that are long, in files beside the database.

A commit takes as long as what is in it, and everybody waits for it. So long outputs go to the disk before the
change that ends their step, in a thread of their own, and the change only names the file: `outputs/RUN/DIGEST`
beside the database, all outputs of one attempt as a msgpack map of bytes, under the SHA-256 of what is in it.
Until that change is committed the file means nothing to anybody; the next daemon removes it. A copy of the
database needs no files: it has all outputs in it (`take_in`). Blocking.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from fusemld.model import faults
from fusemld.model.errors import may_pass
from fusemld.store.codec import from_bytes, to_bytes
from fusemld.store.durable import sync
from fusemld.store.errors import DamagedError, StoreError

FOLDER = "outputs"
PARTIAL = ".partial"

_AT_ONCE_LENGTH = 64 * 1024

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, memoryview]).decode


def beside(database: Path) -> Path:
    return database.parent / FOLDER


def keep(folder: Path, run: str, outputs: Mapping[str, str]) -> str:
    """Write them to a file; returns its name once it is on the disk. One at a time. Raises `OSError`."""
    place = folder / run
    for each in (folder, place):
        each.mkdir(mode=0o700, exist_ok=True)
    partial = place / PARTIAL  # what a killed daemon left of it is written over
    digest = hashlib.sha256()
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for piece in _pieces(outputs):
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)  # others need the room, until there is enough
        raise
    faults.point("outputs.written")
    path = place / digest.hexdigest()
    partial.rename(path)
    for each in (place, folder, folder.parent):
        sync(each)
    faults.point("outputs.kept")
    return path.name


def read(folder: Path, run: str, name: str) -> dict[str, str]:
    """Raises `DamagedError` where the file is not what was written, `StoreError` where it cannot be read now."""
    content = content_of(folder, run, name)
    return {output: from_bytes(value) for output, value in _decode(content).items()}


def content_of(folder: Path, run: str, name: str) -> bytes:
    """With every output in it as it is. Raises as `read`."""
    path = folder / run / name
    try:
        content = path.read_bytes()
    except OSError as error:
        kind = StoreError if may_pass(error) else DamagedError
        raise kind(f"cannot read outputs of run {run}: {error}") from error
    if hashlib.sha256(content).hexdigest() != name:
        raise DamagedError(f"cannot read outputs of run {run}: {path} has been changed")
    return content


def sweep(connection: sqlite3.Connection, folder: Path) -> None:
    """Remove what a killed daemon has left for a run that goes on: a file that nobody names. The end of its
    attempt is told again, or is lost. Raises `OSError`."""
    unfinished = "SELECT 1 FROM runs WHERE id = ? AND finished_at IS NULL"
    for place in folder.iterdir() if folder.is_dir() else ():
        if connection.execute(unfinished, (place.name,)).fetchone() is None:
            continue
        rows = connection.execute("SELECT file FROM output_files WHERE run = ?", (place.name,))
        named = {row[0] for row in rows}
        for file in place.iterdir():
            if file.name not in named:
                file.unlink()


def take_in(connection: sqlite3.Connection, folder: Path) -> list[str]:
    """Put what is in files of `folder` into the database, in one transaction. Returns the runs of which a file
    is damaged: they still name it. Raises `sqlite3.Error`, and `StoreError` where one cannot be read now, with
    nothing done."""
    unread: list[str] = []
    if not _has_files(connection):
        return unread
    connection.execute("BEGIN IMMEDIATE")
    try:
        for run, step, name in connection.execute("SELECT run, step, file FROM output_files").fetchall():
            try:
                outputs = read(folder, run, name)
            except DamagedError:
                unread.append(run)
                continue
            connection.executemany(
                "INSERT OR REPLACE INTO outputs (run, step, name, value) VALUES (?, ?, ?, ?)",
                [(run, step, output, to_bytes(value)) for output, value in outputs.items()],
            )
            connection.execute("DELETE FROM output_files WHERE run = ? AND step = ?", (run, step))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has ended it
            connection.execute("ROLLBACK")
        raise
    return unread


def _pieces(outputs: Mapping[str, str]) -> Iterator[bytes]:
    """A part at a time, so that other threads get on meanwhile."""
    yield b"\xdf" + len(outputs).to_bytes(4, "big")  # a map
    for name, value in outputs.items():
        yield _encode(name)
        parts = []
        for start in range(0, len(value), _AT_ONCE_LENGTH):
            time.sleep(0)
            parts.append(to_bytes(value[start : start + _AT_ONCE_LENGTH]))
        yield b"\xc6" + sum(map(len, parts)).to_bytes(4, "big")  # bytes
        yield from parts


def _has_files(connection: sqlite3.Connection) -> bool:
    """Not with a schema of before."""
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'output_files'")
    return found.fetchone() is not None
