"""Putting a copy of the database in the place of the current one.

Between the copy and its return the daemon went on, and nobody can say any more with what. So nothing that was
under way or due when the copy was made is done again by itself: unfinished runs end, their attempts are lost; what
documents ask for is not run (`HELD`); and the numbers of attempts that may have been made since are never given
again. A person decides what is to go on. Blocking.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec.structs import replace

from fusemld.model import faults
from fusemld.model.document import HELD, Assignment, DocumentRecord, DocumentState, Kind, Restoration
from fusemld.model.errors import FusemldError, InvalidInputError, NotFoundError, StartError
from fusemld.model.run import Attempt, Ending, Outcome, RunState, StepState
from fusemld.store import copying, outputs, reads
from fusemld.store.changes import PutDocument, PutMeta, PutService, apply
from fusemld.store.codec import Decoder, encode
from fusemld.store.durable import sync
from fusemld.store.errors import StoreError
from fusemld.store.keys import COPIED_AT, INSTANCE, RESTORATION
from fusemld.store.records import StoredStep
from fusemld.store.schema import check_version, upgrade

RESERVED = 1000
"""More attempts than one step makes between a copy and its return."""
REPLACED_KEPT = 3

_step = Decoder(StoredStep)


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What came back. `ended` are the runs that had not ended when the copy was made; `replaced` is where the
    database is that was there before."""

    copied_at: float
    runs: int
    ended: tuple[str, ...]
    replaced: Path | None


def stamp(path: Path, at: float) -> None:
    """Note in a copy when it was made. Raises `sqlite3.Error`."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        apply(connection, PutMeta(COPIED_AT, str(at)))


def check(source: Path) -> None:
    """Raises as `restore` does where `source` is no copy that can be restored. Nothing is changed."""
    with _told(source), _opened(source) as connection:
        _check(connection, source)


def restore(source: Path, path: Path, now: float) -> Restored:
    """Make the copy `source` the database `path`, which nobody may use meanwhile. Done by root, it belongs to the
    owner of its folder.

    Raises `NotFoundError`, `InvalidInputError` for what is no whole database of fusemld, `StartError` for that of
    a newer one, and `FusemldError` where the disk fails. Killed at any moment, it has happened or not.
    """
    prepared = path.with_name(f".{path.name}.restoring")
    try:
        with _told(source):
            _remove(prepared)
            with _opened(source) as connection:
                copied_at = _check(connection, source)
                copying.copy(connection, prepared, outputs.beside(source))
            with contextlib.closing(sqlite3.connect(prepared, isolation_level=None)) as connection:
                upgrade(connection)
                runs, ended = _settle(connection, copied_at or source.stat().st_mtime, now)
            copying.give_to_owner(prepared)
            sync(prepared)
            faults.point("restore.prepared")
            replaced = _keep(path)
            faults.point("restore.kept")
            prepared.replace(path)
            sync(path.parent)
            faults.point("restore.replaced")
            copying.keep_latest(path, "replaced", REPLACED_KEPT)
    finally:
        _remove(prepared)
    return Restored(copied_at=copied_at, runs=runs, ended=ended, replaced=replaced)


@contextlib.contextmanager
def _told(source: Path) -> Iterator[None]:
    """Whatever fails in the words of the family."""
    try:
        yield
    except sqlite3.Error as error:
        raise InvalidInputError(f"cannot restore {source}: {error}") from error
    except OSError as error:
        raise FusemldError(f"cannot restore {source}: {error}") from error


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[sqlite3.Connection]:
    """Read-only; what a copy beside which there is no journal needs no files beside it."""
    if not source.is_file():
        raise NotFoundError(f"cannot restore {source}: there is no such file")
    is_alone = not source.with_name(f"{source.name}-wal").exists()
    address = f"{source.absolute().as_uri()}?{'immutable=1' if is_alone else 'mode=ro'}"
    with contextlib.closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
        yield connection


def _check(connection: sqlite3.Connection, source: Path) -> float:
    """When the copy was made, 0 where it does not say."""
    try:
        version = check_version(connection, source)
        damage = copying.damage(connection)
        instance = reads.meta(connection, INSTANCE) if version and not damage else None
    except StartError as error:
        raise StartError(str(error).replace("cannot open", "cannot restore", 1)) from error
    except sqlite3.DatabaseError as error:
        what = "not a database" if error.sqlite_errorname == "SQLITE_NOTADB" else f"damaged: {error}"
        raise InvalidInputError(f"cannot restore {source}: it is {what}") from error
    if damage:
        raise InvalidInputError(f"cannot restore {source}: it is damaged: {damage}")
    if instance is None:
        raise InvalidInputError(f"cannot restore {source}: it is not a database of fusemld")
    return float(reads.meta(connection, COPIED_AT) or 0.0)


def _settle(connection: sqlite3.Connection, copied_at: float, now: float) -> tuple[int, tuple[str, ...]]:
    """Leave nothing that would go on by itself. The number of runs, and those that were ended."""
    when = f"the database was restored from a copy of {_moment(copied_at)}"
    connection.execute("BEGIN IMMEDIATE")
    unfinished = [row[0] for row in connection.execute("SELECT id FROM runs WHERE finished_at IS NULL")]
    steps = connection.execute(
        "SELECT run, steps.name, steps.state, steps.data, finished_at IS NULL FROM steps JOIN runs ON id = run"
        " WHERE runs.state <> ? AND steps.state <> ?",
        (RunState.SUCCEEDED, StepState.SUCCEEDED),
    ).fetchall()
    for run, name, state, data, is_unfinished in steps:
        stored, now_in = _step(data), StepState(state)
        if is_unfinished and not now_in.is_final:
            stored, now_in = _ended(stored, now_in, when, now)
        stored = replace(stored, reserved=max(stored.reserved, _latest(stored)) + RESERVED)
        connection.execute(
            "UPDATE steps SET state = ?, data = ? WHERE run = ? AND name = ?", (now_in, encode(stored), run, name)
        )
    connection.execute(
        "UPDATE runs SET state = iif(cancel_requested, ?, ?), finished_at = ?, message = ?"
        " WHERE finished_at IS NULL",
        (
            RunState.CANCELLED,
            RunState.FAILED,
            now,
            f"{when}: what became of this run since then is not known; `fuseml retry` goes on with it",
        ),
    )
    restoration = Restoration(at=now, why=when)
    for row in reads.records(connection, reads.DOCUMENTS):
        if (held := _held(row, restoration.detail)) != row:
            apply(connection, PutDocument(held))
    for service in reads.records(connection, reads.SERVICES):
        # Numbers that its processes have had since must not come again: see `ServiceSupervisor`.
        apply(connection, PutService(replace(service, counter=max(service.counter, int(now)))))
    connection.execute("DELETE FROM files")
    apply(connection, PutMeta(RESTORATION, encode(restoration)))
    connection.execute("COMMIT")
    return int(connection.execute("SELECT count(*) FROM runs").fetchone()[0]), tuple(unfinished)


def _ended(step: StoredStep, state: StepState, when: str, now: float) -> tuple[StoredStep, StepState]:
    attempts = step.attempts
    if state.is_active:
        outcome = Outcome(ending=Ending.LOST, message=f"{when}, made while it ran")
        attempts = (*attempts[:-1], replace(attempts[-1], ended_at=now, outcome=outcome))
    was_tried = state.is_active or state is StepState.BACKOFF
    ended = replace(step, reason=when, since=now, deadline=None, kill_requested=None, attempts=attempts)
    return ended, StepState.FAILED if was_tried else StepState.SKIPPED


def _latest(step: StoredStep) -> int:
    latest: Attempt | None = step.attempts[-1] if step.attempts else None
    return latest.number if latest else 0


def _held(row: DocumentRecord, detail: str) -> DocumentRecord:
    """The row such that what it asks for now counts as run."""
    if not row.present or row.state is DocumentState.SHADOWED or row.canonical is None:
        return row
    if row.kind is Kind.ASSIGNMENT:
        references = msgspec.json.decode(row.canonical, type=Assignment).codesets
        return replace(row, started_versions=dict.fromkeys(map(str, references), HELD))
    is_waiting = row.kind is Kind.WORKFLOW and row.state is DocumentState.WAITING
    if row.started_generation < row.generation and (is_waiting or row.kind is Kind.RUN):
        return replace(row, started_generation=row.generation, state=DocumentState.WAITING, detail=detail)
    return row


def _keep(path: Path) -> Path | None:
    """Give the current database a second name, with everything in it that was committed; where it can be read,
    with what is in files too: these go when nobody knows their runs any more."""
    if not path.exists():
        return None
    kept = copying.beside(path, "replaced")
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection,
    ):
        with contextlib.suppress(sqlite3.Error, StoreError):  # then it names them, as long as they are there
            outputs.take_in(connection, outputs.beside(path))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for suffix in ("-wal", "-shm"):  # of one that is too damaged for that; a later database must not meet them
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(kept.with_name(kept.name + suffix))
    kept.hardlink_to(path)
    sync(path.parent)
    return kept


def _remove(prepared: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        prepared.with_name(prepared.name + suffix).unlink(missing_ok=True)


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
