"""The database: one writer that commits what has gathered, readers beside it.

SQLite in WAL mode with `synchronous=FULL`: what `write` has returned from survives the power cord. All changes
that arrive while a commit is under way are committed together by the next one.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import aiosqlite
import anyio
import structlog
from anyio.to_thread import run_sync

from fusemld.model import faults
from fusemld.model.application import Application
from fusemld.model.document import DocumentRecord, RememberedFile, Restoration
from fusemld.model.errors import StartError, may_pass
from fusemld.model.run import Run, are_long
from fusemld.model.service import ServiceRecord
from fusemld.store import copying, reads, upkeep
from fusemld.store import outputs as output_files
from fusemld.store.changes import Change, apply
from fusemld.store.errors import DamagedError, StoreConflictError, StoreError, unavailable
from fusemld.store.keys import INSTANCE
from fusemld.store.reads import Entries, R, RunQuery, Table
from fusemld.store.restoring import stamp
from fusemld.store.schema import migrate
from fusemld.store.upkeep import Aged

_log: structlog.stdlib.BoundLogger = structlog.get_logger()

T = TypeVar("T")

CLOSE_S = 10.0
WAL_BYTES = 6 * 1024 * 1024
"""More than the 1,000 pages after which SQLite writes the log of changes from its beginning again."""


class _Connection(aiosqlite.Connection):
    """aiosqlite with a way to do several things in one trip to its thread, and to see that thread end."""

    ended: asyncio.Future[None] | None = None

    def stop(self) -> asyncio.Future[None] | None:
        """aiosqlite asks its thread to end without waiting where the file could not be opened."""
        self.ended = cast("asyncio.Future[None] | None", super().stop())
        return self.ended

    async def call(self, function: Callable[[sqlite3.Connection], T]) -> T:
        return cast("T", await self._execute(function, self._conn))  # type: ignore[no-untyped-call]


class _Waiting:
    """What one caller of `write` waits for."""

    __slots__ = ("changes", "future")

    def __init__(self, changes: tuple[Change, ...]) -> None:
        self.changes = changes
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(self, error: Exception | None) -> None:
        if self.future.done():  # the caller was cancelled
            return
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)


class Store:
    """Made by `Store.open`. Every method raises `StoreError` where the database cannot be read or written."""

    def __init__(self, path: Path, writer: _Connection, reader: _Connection) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._keeping = anyio.CapacityLimiter(1)
        self._closing = False
        self.unreadable: dict[str, dict[str, DamagedError]] = {}
        """What `entries` could not read when it last looked at a table, by table and key."""
        self.commits = 0
        """How many transactions were committed, each for one or more writes."""

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncGenerator[Store]:
        """Create or migrate the database (mode 0600); at the end, what was asked to be written is written.

        Raises `StartError` for a file that cannot be opened and for the database of a newer fusemld.
        """
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StartError(f"cannot open the database: {error}") from error
        async with _connected(path) as writer:
            await writer.call(partial(_prepare, path=path))
            async with _connected(path) as reader:
                await reader.call(lambda connection: connection.execute("PRAGMA query_only = ON"))
                store = cls(path, writer, reader)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(store._serve, name="store writer")
                    try:
                        yield store
                    finally:
                        store._close()

    async def write(self, *changes: Change) -> None:
        """Returns when all changes are durable; either all of them are or none.

        Raises `StoreConflictError` where a change contradicts what is stored. A caller that is cancelled does
        not know whether they were written.
        """
        if not changes:
            return
        if self._closing:
            raise StoreError("cannot write to the database: it is closed")
        waiting = _Waiting(changes)
        self._waiting.append(waiting)
        self._arrived.set()
        await waiting.future

    async def keep_outputs(self, run: str, outputs: Mapping[str, str]) -> str:
        """Have the outputs of a step on the disk before the change that ends the step, if they are long: the
        `StepRun.outputs_file` for that change, empty where they are not. Others write meanwhile. Raises `OSError`
        for what does not pass by itself."""
        if not are_long(outputs):
            return ""
        try:
            return await run_sync(output_files.keep, self.outputs_folder, run, outputs, limiter=self._keeping)
        except OSError as error:
            if not may_pass(error):
                raise
            raise StoreError(f"cannot store the outputs: {error}") from error

    @property
    def outputs_folder(self) -> Path:
        """Has a folder for each run of which outputs are in files."""
        return output_files.beside(self._path)

    async def unfinished_runs(self) -> list[Run]:
        """In the order of their creation; derived fields are left to the engine. Wherever runs are read, those
        that cannot be read whole are of the type `DamagedRun`."""
        return await self._read(partial(reads.unfinished, folder=self.outputs_folder))

    async def run(self, id: str) -> Run | None:  # noqa: A002
        return await self._read(partial(reads.run, folder=self.outputs_folder, id=id))

    async def runs(self, query: RunQuery | None = None) -> list[Run]:
        """Newest first, finished or not."""
        return await self._read(partial(reads.runs, folder=self.outputs_folder, query=query or RunQuery()))

    async def run_count(self, query: RunQuery | None = None) -> int:
        """How many runs match, whatever the limit."""
        return await self._read(partial(reads.count, query=query or RunQuery()))

    async def find_run(self, text: str) -> str:
        """The id of the run that a person means by its id, the beginning or the end of it, or `latest`.

        Raises `NotFoundError`, and `InvalidInputError` with candidates where it could be several.
        """
        return await self._read(partial(reads.find, text=text))

    async def workflow(self, digest: str) -> str | None:
        """The canonical text of a workflow that a run was created with."""
        return await self._read(partial(reads.workflow, digest=digest))

    # All records of a table, or `DamagedError`; and what of them can be read

    async def documents(self) -> list[DocumentRecord]:
        return await self._whole(reads.DOCUMENTS)

    async def applications(self) -> list[Application]:
        return await self._whole(reads.APPLICATIONS)

    async def services(self) -> list[ServiceRecord]:
        return await self._whole(reads.SERVICES)

    async def entries(self, table: Table[R]) -> Entries[R]:
        """Who leaves out what cannot be read must not take it for something that is not there."""
        found = await self._read(partial(reads.entries, table=table))
        before = self.unreadable.get(table.name, {})
        self.unreadable[table.name] = found.unreadable
        for key in found.unreadable.keys() - before.keys():
            _log.error("store.unreadable", error=str(found.unreadable[key]))
        return found

    async def _whole(self, table: Table[R]) -> list[R]:
        return await self._read(partial(reads.records, table=table))

    async def meta(self, key: str) -> str | None:
        return await self._read(partial(reads.meta, key=key))

    async def restoration(self) -> Restoration | None:
        """When and why the database became a copy of an earlier one, if it ever did."""
        return await self._read(reads.restoration)

    async def remembered_files(self) -> list[RememberedFile]:
        return await self._whole(reads.FILES)

    # For retention: see `fusemld.store.upkeep`

    async def aged_runs(self, *, before: float | None, keep: int | None) -> Aged:
        return await self._read(partial(upkeep.aged, before=before, keep=keep))

    async def known_runs(self, ids: Sequence[str]) -> dict[str, float | None]:
        return await self._read(partial(upkeep.known, ids=ids))

    async def run_causes(self, going: Collection[str]) -> set[str]:
        return await self._read(partial(upkeep.causes, going=going))

    async def unused_workflows(self, going: Collection[str]) -> int:
        return await self._read(partial(upkeep.unused_workflows, going=going))

    async def pinned_digests(self, going: Collection[str]) -> set[str]:
        return await self._read(partial(upkeep.pinned_digests, going=going))

    async def run_naming(self, text: str, going: Collection[str]) -> str | None:
        return await self._read(partial(upkeep.run_naming, folder=self.outputs_folder, text=text, going=going))

    async def back_up(self, target: Path) -> None:
        """Copy the database as it is at one moment to a file of its own: complete, whole and on the disk, or not
        there. Readers and writers go on. Raises `OSError` too."""

        def make(connection: sqlite3.Connection) -> None:
            at = time.time()
            if damaged := copying.copy(connection, target, self.outputs_folder):
                _log.error("backup.incomplete", without_outputs_of=damaged)
            stamp(target, at)

        try:
            async with _connected(self._path) as reader:
                await reader.call(make)
        except sqlite3.Error as error:
            raise unavailable("copy", error) from error

    async def _read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await self._reader.call(function)
        except sqlite3.Error as error:
            raise unavailable("read", error) from error

    async def _serve(self) -> None:
        """The one writer."""
        try:
            while self._waiting or not self._closing:
                await self._arrived.wait()
                self._arrived.clear()
                while self._waiting:
                    await self._commit_waiting()
        finally:
            for waiting in self._waiting:
                waiting.settle(StoreError("cannot write to the database: it was closed"))

    async def _commit_waiting(self) -> None:
        batch, self._waiting = self._waiting, []
        loop = asyncio.get_running_loop()

        def settle(errors: Sequence[Exception | None]) -> None:
            self.commits += 1
            for waiting, error in zip(batch, errors, strict=True):
                waiting.settle(error)

        def commit(connection: sqlite3.Connection) -> None:
            errors = _commit(connection, [waiting.changes for waiting in batch])
            loop.call_soon_threadsafe(settle, errors)  # a turn of the loop before this task hears of it

        try:
            await self._writer.call(commit)
        finally:
            for waiting in batch:
                waiting.settle(StoreError("cannot tell whether the database was written: it was closed"))

    def _close(self) -> None:
        self._closing = True
        self._arrived.set()


@asynccontextmanager
async def _connected(path: Path) -> AsyncGenerator[_Connection]:
    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
        try:
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 5000"):
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        return connection

    connection = _Connection(connect, iter_chunk_size=64)
    try:
        await connection
    except BaseException as error:
        if connection.ended is not None:  # its last words go to this event loop, which must still be there
            with anyio.move_on_after(CLOSE_S, shield=True):
                await connection.ended
        if isinstance(error, sqlite3.Error):
            raise unavailable("open", error) from error
        raise
    try:
        yield connection
    finally:
        with anyio.move_on_after(CLOSE_S, shield=True):
            await connection.close()


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    try:
        migrate(connection, path)
        connection.execute(
            "INSERT OR IGNORE INTO meta (key, value) VALUES (?, ?)", (INSTANCE, secrets.token_hex(8))
        )
        _enlarge_wal(path)
        _sweep_outputs(connection, path)
    except sqlite3.Error as error:
        raise unavailable("prepare", error) from error


def _sweep_outputs(connection: sqlite3.Connection, path: Path) -> None:
    try:
        output_files.sweep(connection, output_files.beside(path))
    except OSError as error:
        _log.warning("store.outputs_not_swept", error=str(error))  # they go with their runs


def _enlarge_wal(path: Path) -> None:
    """Give the log of changes its full size at once: a commit that enlarges the file costs the file system one of
    its own. What is behind the last valid frame means nothing to SQLite."""
    try:
        with open(f"{path}-wal", "r+b", buffering=0) as wal:  # noqa: PTH123 - the name has no suffix
            missing = WAL_BYTES - wal.seek(0, os.SEEK_END)
            if missing > 0:
                wal.write(bytes(missing))
                os.fsync(wal.fileno())
    except OSError as error:
        _log.warning("store.wal_not_enlarged", error=str(error))  # commits are slower


def _commit(connection: sqlite3.Connection, batch: Sequence[tuple[Change, ...]]) -> list[Exception | None]:
    """One transaction for all callers. A change that is refused fails its caller only, a broken disk all."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        errors = [_apply_all(connection, changes, is_alone=len(batch) == 1) for changes in batch]
        faults.point("store.committing")
        if connection.in_transaction:
            connection.execute("COMMIT")
        faults.point("store.committed")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        return [unavailable("write to", error) for _ in batch]
    return errors


def _apply_all(connection: sqlite3.Connection, changes: tuple[Change, ...], *, is_alone: bool) -> Exception | None:
    """All of the changes or none; who is alone in its transaction needs no savepoint."""
    if not is_alone:
        connection.execute("SAVEPOINT caller")
    try:
        for change in changes:
            apply(connection, change)
    except (sqlite3.IntegrityError, sqlite3.DataError) as error:
        refusal: Exception = StoreConflictError(f"cannot write {type(change).__name__} to the database: {error}")
    except sqlite3.Error:
        raise
    except Exception as error:  # noqa: BLE001 - a bug of this caller, raised where it called
        refusal = error
    else:
        if not is_alone:
            connection.execute("RELEASE caller")
        return None
    if is_alone:
        connection.execute("ROLLBACK")
    else:
        connection.execute("ROLLBACK TO caller")
        connection.execute("RELEASE caller")
    return refusal
