"""From the watched folder to runs: scans feed the catalog, the catalog says which runs are due."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from itertools import groupby
from operator import attrgetter

import anyio
import structlog

from fusemld.daemon.admitting import Admitting
from fusemld.daemon.patience import patiently
from fusemld.daemon.plans import Plans
from fusemld.daemon.pulse import Pulse
from fusemld.daemon.supervisor import Supervisor
from fusemld.engine.begin import new_run
from fusemld.hooks.environments import Note
from fusemld.intake.catalog import Catalog, DueRun, PolledCodeset, Update
from fusemld.intake.snapshot import Scan
from fusemld.intake.triggers import Start
from fusemld.model import faults
from fusemld.model.codeset import Codeset, parse_reference
from fusemld.model.document import Document, DocumentState, Kind, RememberedFile
from fusemld.model.errors import UnavailableError
from fusemld.model.extension import Extension
from fusemld.model.ids import run_id
from fusemld.model.progress import Progress
from fusemld.model.run import Run
from fusemld.registry.registry import Registry
from fusemld.store.changes import Change, DeleteDocument, DeleteFile, PutDocument, PutFile, PutMeta, PutWorkflow
from fusemld.store.keys import INBOX
from fusemld.store.sqlite import Store

log = structlog.get_logger(__name__)

STORED_AT_ONCE = 500
STARTED_AT_ONCE = 50
"""Runs that are made in one commit. Others wait no longer than it takes."""
STORING = "storing what was seen in the watched folder"
_GENERATION = re.compile(" generation ")
"""What follows the document in the cause of a run."""


class Folder:
    """Owns the catalog. Whatever it learns is stored before anything is done about it."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        registry: Registry,
        store: Store,
        supervisor: Supervisor,
        admitting: Admitting,
        plans: Plans,
        default_executor: str,
        remembered: Iterable[RememberedFile] = (),
        identity: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.catalog = catalog
        self.progress = Progress()
        self._registry = registry
        self._store = store
        self._supervisor = supervisor
        self._admitting = admitting
        self._plans = plans
        self._default_executor = default_executor
        self._clock = clock
        self._lock = anyio.Lock()
        self._pending: dict[str, RememberedFile] = {}
        """Files that still have something to start."""
        self._remembered = {file.path for file in remembered}
        self._identity = identity
        self._scanned = Pulse()
        self._was_seen = False
        """The folder, in this daemon's life."""
        self.trouble = ""
        """Why what was seen in the folder cannot be stored now."""

    def registered(self, kind: Kind) -> Mapping[str, Document]:
        return self.catalog.registered(kind)

    async def extensions_read(self, note: Note) -> None:
        """Returns once every extension that the folder is known to declare was read in this daemon's life: their
        credentials are in no other place, so before that nobody can tell what a requirement resolves to."""
        while unread := self._unread_extensions():
            where = "" if self.catalog.available else ": the watched folder cannot be seen"
            note(f"waiting for the record of extension {', '.join(unread)}{where}")
            await self._scanned.wait(self._scanned.version)

    def _unread_extensions(self) -> list[str]:
        known = {
            row.name
            for row in self.catalog.records
            if row.kind is Kind.EXTENSION
            and (row.present or (self.catalog.is_unreadable(row.key) and not self._was_seen))
        }
        return sorted(known - self.registered(Kind.EXTENSION).keys())

    async def on_scan(self, scan: Scan) -> None:
        """Take in what the watcher saw, and start what became due."""
        async with self._at_work():
            was_available = self.catalog.available
            checked = self._admitting.check(scan, self.registered(Kind.EXTENSION))
            update = self.catalog.apply(checked)
            if was_available != self.catalog.available:
                log.warning("folder.available" if self.catalog.available else "folder.unavailable")
            faults.point("folder.noticed")
            self._tell(update)
            self._register_extensions()
            self._was_seen = self._was_seen or scan.available
            self._scanned.fire()
            changed = (*scan.removed, *(report.file for report in scan.files if report.readable))
            await self._store_update(update, (*self._forget_files(changed), *self._new_identity(scan)))
            faults.point("folder.stored")
            self._pending |= {file.path: file for file in scan.taken}
            started = await self._start_due()
            remembered = self._remembered_now([*(file.path for file in scan.taken), *started])
            for start in range(0, len(remembered), STORED_AT_ONCE):
                await self._write(*remembered[start : start + STORED_AT_ONCE])

    async def codeset_seen(self, polled: PolledCodeset, version: str, problem: str) -> None:
        """A codeset of an assignment was looked at."""
        async with self._at_work():
            await self._store_update(self.catalog.codeset_seen(polled, version, problem))
            await self._start_due()

    async def forget_removed(self, going: Collection[str], *, dry_run: bool) -> tuple[int, int]:
        """Forget removed documents; how many, and how many must be remembered. As long as there is a run that one
        of them has started, but for those that are `going`, it is: dropped again it gets a generation that no run
        has had. Raises `UnavailableError` where the database cannot be written now, without waiting for it."""
        if self._lock.locked() and self.trouble:
            raise UnavailableError(self.trouble)
        async with self._at_work():
            named = {
                cause[: found.start()]
                for cause in await self._store.run_causes(going)
                for found in _GENERATION.finditer(cause)
            }
            removed = self.catalog.removed()
            unnamed = [key for key in removed if key not in named]
            if not dry_run:
                for start in range(0, len(unnamed), STORED_AT_ONCE):
                    keys = unnamed[start : start + STORED_AT_ONCE]
                    await self._store.write(*map(DeleteDocument, keys))
                    self.progress.step()
                    self.catalog.forget(keys)
        return len(unnamed), len(removed) - len(unnamed)

    async def start(self, start: Start, *, user: str, cause: str) -> Run:
        """Create the run that somebody asked for."""
        return await self._create(run_id(start.workflow.name, self._clock()), start, user=user, cause=cause)

    async def _create(
        self,
        id: str,  # noqa: A002 - the name of the field
        start: Start,
        *,
        user: str,
        cause: str,
        version: str = "",
        changes: tuple[Change, ...] = (),
    ) -> Run:
        """With `changes` in the same transaction. `version` is what the codeset of an assignment was seen at."""
        workflow = start.workflow
        plan = self._plans.add(workflow.digest, workflow.canonical)
        inputs = dict(start.inputs)
        if version and not self._is_folder(start.reference):
            inputs = {name: _at(text, start.reference, version) for name, text in inputs.items()}
        run = new_run(
            plan,
            id=id,
            created_at=self._clock(),
            inputs=inputs,
            project=start.project,
            user=user,
            cause=cause,
            executor=start.executor or plan.workflow.executor or self._default_executor,
        )
        stored = PutWorkflow(workflow.digest, workflow.name, workflow.canonical)
        await self._supervisor.create(run, plan, (stored, *changes))
        log.info("run.created", run=run.id, workflow=run.workflow, cause=cause)
        return run

    def _is_folder(self, reference: str) -> bool:
        """A folder has no versions that one could ask for: a run takes it as it is."""
        parsed = parse_reference(reference)
        document = self.registered(Kind.CODESET).get(f"{parsed.project}/{parsed.name}")
        return document is None or not isinstance(document.declared, Codeset) or document.declared.path is not None

    async def _start_due(self) -> list[str]:
        """The files that had something to start."""
        due = self.catalog.due()
        for first in range(0, len(due), STARTED_AT_ONCE):
            async with anyio.create_task_group() as tasks:
                for document, runs in groupby(due[first : first + STARTED_AT_ONCE], attrgetter("document")):
                    tasks.start_soon(self._start_all, tuple(runs), name=f"start {document}")
        return [row.file for each in due if (row := self.catalog.record(each.document)) is not None]

    async def _start_all(self, due: Iterable[DueRun]) -> None:
        """Those of one document, one after the other: each row says what was started before it."""
        for each in due:
            await self._start_one(each)
            self.progress.step()

    async def _start_one(self, due: DueRun) -> None:
        """In one transaction with the row that says it was started."""
        run = run_id(due.start.workflow.name, self._clock())
        row = self.catalog.starting(due, run)
        changes = (PutDocument(row),)
        try:
            await self._create(
                run, due.start, user=due.user, cause=due.cause, version=due.version, changes=changes
            )
        except Exception as error:
            log.exception("run.not_created", document=due.document, cause=due.cause)
            why = f"its run cannot be created: {str(error) or type(error).__name__}; the next daemon tries again"
            await self._store_update(self.catalog.failed(due, why))
        else:
            self.catalog.started(due, row)

    @asynccontextmanager
    async def _at_work(self) -> AsyncGenerator[None]:
        """One at a time."""
        async with self._lock:
            self.progress.work(STORING)
            try:
                yield
            finally:
                self.progress.rest()

    def _new_identity(self, scan: Scan) -> tuple[Change, ...]:
        """It is another folder than the one that was watched before."""
        if scan.identity in ("", self._identity):
            return ()
        self._identity = scan.identity
        return (PutMeta(INBOX, scan.identity),)

    def _forget_files(self, files: Iterable[str]) -> tuple[Change, ...]:
        """Their content is another one."""
        known = self._remembered.intersection(files)
        self._remembered -= known
        for file in files:
            self._pending.pop(file, None)
        return tuple(DeleteFile(file) for file in known)

    def _remembered_now(self, files: Iterable[str]) -> tuple[Change, ...]:
        """Those of which the next daemon needs to know nothing but whether they are the same."""
        done = [self._pending.pop(file) for file in files if file in self._pending and self.catalog.is_done(file)]
        self._remembered |= {file.path for file in done}
        return tuple(PutFile(file) for file in done)

    async def _store_update(self, update: Update, more: Iterable[Change] = ()) -> None:
        changes: list[Change] = [*more, *(PutDocument(row) for row in update.records)]
        changes += [DeleteDocument(key) for key in update.forgotten]
        await self._write(*changes)

    async def _write(self, *changes: Change) -> None:
        def note(text: str) -> None:
            self.trouble = text
            self.progress.rest()  # what is wrong is told already
            log.warning("store.unavailable", error=text)

        await patiently(lambda: self._store.write(*changes), note)
        self.trouble = ""
        self.progress.work(STORING)

    def _register_extensions(self) -> None:
        declared = {name: document.declared for name, document in self.registered(Kind.EXTENSION).items()}
        for record in self._registry.list():
            if record.id not in declared:
                self._registry.remove(record.id)
        for extension in declared.values():
            assert isinstance(extension, Extension)
            self._registry.upsert(extension)

    @staticmethod
    def _tell(update: Update) -> None:
        """The journal carries what `fuseml files` shows."""
        for row in update.records:
            for problem in row.problems:
                log.warning("document.problem", text=problem.at(row.file))
            if row.state is not DocumentState.REJECTED or not row.problems:
                log.info("document.changed", key=row.key, file=row.file, state=row.state, detail=row.detail)


def _at(text: str, reference: str, version: str) -> str:
    """The input that names the assignment's codeset, pinned to what was seen of it."""
    if text != reference:
        return text
    return f"{reference.partition('@')[0]}@{version}"
