"""Retention: what has ended goes after a while, so that a host can be left alone for years.

Never touched are unfinished runs and what they use; failed and cancelled runs younger than `retention.runs_s`,
which `fuseml retry` could go on with, and what they use; the run, the services and the environments of an
application; what a running process uses; and codesets and environments that were asked for within the last hour.
In the database runs go first, their long outputs and logs after them: a run that is shown is whole. Folders leave
their place before they are removed. All parts are told which runs went, or in a dry run would have gone, and count
these for nothing: what a dry run says is what a real one does.

On a full disk the database cannot be written, and folders are what makes room: each part fails alone, the others
go on, and what is only rows comes last.

The file of the database does not shrink: SQLite fills what was given back before the file grows again, so it is as
large as what it held at most. `fuseml backup` gives a copy of the size that is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import anyio
import structlog

from fusemld.api.views import UpkeepView
from fusemld.codesets.codesets import Codesets
from fusemld.daemon.folder import Folder
from fusemld.daemon.leisure import at_leisure
from fusemld.daemon.retained_codesets import RetainedCodesets
from fusemld.daemon.retained_environments import RetainedEnvironments
from fusemld.daemon.retained_logs import RetainedLogs
from fusemld.daemon.retained_outputs import RetainedOutputs
from fusemld.daemon.settings import RetentionSettings
from fusemld.daemon.supervisor import Supervisor
from fusemld.daemon.tally import Tally, tallied
from fusemld.hooks.services import ServiceKind
from fusemld.hooks.steps import RuntimeFolders
from fusemld.model import faults
from fusemld.model.progress import Progress
from fusemld.store.changes import DeleteUnusedWorkflows
from fusemld.store.sqlite import Store

log = structlog.get_logger(__name__)

FIRST_S = 60.0
"""After the start, which has other things to do."""
BATCH = 50


class Retention:
    def __init__(
        self,
        *,
        settings: RetentionSettings,
        state: Path,
        store: Store,
        supervisor: Supervisor,
        folder: Folder,
        codesets: Codesets,
        folders: RuntimeFolders,
        kinds: Mapping[str, ServiceKind],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._store = store
        self._supervisor = supervisor
        self._folder = folder
        self._clock = clock
        self.passing = Progress()
        """Of a pass, whoever asked for it."""
        self._logs = RetainedLogs(state / "logs", settings, store, supervisor, clock, self.passing)
        self._outputs = RetainedOutputs(store, supervisor, self.passing)
        self._codesets = RetainedCodesets(codesets, settings, store, supervisor, clock, self.passing)
        self._environments = RetainedEnvironments(
            folders, state, settings, store, folder, kinds, clock, self.passing
        )
        self._one_at_a_time = anyio.Lock()
        self.rounds = Progress()
        """Of `run`, between passes."""

    async def run(self) -> None:
        """Let go, now and then, of what may go; returns at once where that happens on request only."""
        every_s = self._settings.every_s
        pause_s = min(FIRST_S, every_s)
        while every_s:
            self.rounds.rest(pause_s)
            await anyio.sleep(pause_s)
            pause_s = every_s
            self.rounds.rest()  # a pass has its own
            try:
                await self.collect()
            except Exception:
                log.exception("retention.failed")

    async def collect(self, *, dry_run: bool = False) -> UpkeepView:
        """Let go of everything that may go, little by little; with `dry_run` only say what. What failed is said by
        its part."""
        async with self._one_at_a_time:
            try:
                tallies = await self._collect(dry_run)
            finally:
                self.passing.rest()
        view = UpkeepView(dry_run=dry_run, parts=tuple(tally.part() for tally in tallies))
        for part in view.parts:
            if part.removed and not dry_run:
                log.info("retention.removed", what=part.what, count=part.removed, size_bytes=part.removed_bytes)
        return view

    async def _collect(self, dry_run: bool) -> Sequence[Tally]:
        going: set[str] = set()
        self.passing.work("letting go of runs")
        with tallied("runs") as runs:
            await self._runs(runs, going, dry_run)
        self.passing.work("letting go of outputs")
        outputs = await self._outputs.collect(going, dry_run=dry_run)
        self.passing.work("letting go of logs")
        logs = await self._logs.collect(going, dry_run=dry_run)
        self.passing.work("letting go of copies of codesets")
        copies = await self._codesets.collect(going, dry_run=dry_run)
        self.passing.work("letting go of environments")
        environments = await self._environments.collect(going, dry_run=dry_run)
        self.passing.work("letting go of downloads")
        downloads = await self._environments.collect_downloads(dry_run=dry_run)
        self.passing.work("letting go of contents of workflows")
        with tallied("contents of workflows") as workflows:
            await self._workflows(workflows, going, dry_run)
        self.passing.rest()  # the folder has its own
        with tallied("removed documents") as documents:
            await self._documents(documents, going, dry_run)
        return runs, outputs, workflows, documents, *logs, copies, environments, downloads

    async def _runs(self, tally: Tally, going: set[str], dry_run: bool) -> None:
        """`going` gets those that went."""
        settings = self._settings
        aged = await self._store.aged_runs(
            before=self._clock() - settings.runs_s if settings.runs_s else None, keep=settings.runs_keep or None
        )
        for start in range(0, len(aged.going), BATCH):
            batch = aged.going[start : start + BATCH]
            async with at_leisure(self.passing):
                ended = self._ended(batch) if dry_run else await self._supervisor.forget_ended(batch)
            going.update(ended)
            tally.remove(count=len(ended))
            tally.keep("unfinished", count=len(batch) - len(ended))
        if tally.removed and not dry_run:
            faults.point("retention.forgotten")
        tally.keep("unfinished", count=aged.unfinished)
        tally.keep("the run of an application", count=aged.of_applications)
        tally.keep("failed or cancelled lately: can be retried", count=aged.retriable)
        tally.keep("recent", count=aged.recent)

    def _ended(self, runs: Sequence[str]) -> Sequence[str]:
        return [run for run in runs if self._supervisor.find(run) is None]

    async def _workflows(self, tally: Tally, going: Collection[str], dry_run: bool) -> None:
        """Contents that runs were created with."""
        unused = await self._store.unused_workflows(going)
        if unused and not dry_run:
            await self._store.write(DeleteUnusedWorkflows())
        tally.remove(count=unused)

    async def _documents(self, tally: Tally, going: Collection[str], dry_run: bool) -> None:
        """What removed documents left behind."""
        forgotten, remembered = await self._folder.forget_removed(going, dry_run=dry_run)
        tally.remove(count=forgotten)
        tally.keep("named by a run", count=remembered)
