"""Which logs may go: of runs that are no more, old ones, and the oldest of ended runs where all are too much."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from anyio.to_thread import run_sync

from fusemld.daemon.run_folders import Entry, RunFolders, entries, measured
from fusemld.daemon.settings import RetentionSettings
from fusemld.daemon.supervisor import Supervisor
from fusemld.daemon.tally import Tally, tallied
from fusemld.model.progress import Progress
from fusemld.store import reads
from fusemld.store.sqlite import Store

SERVICES = "services"
BUILDS = "environments"


class RetainedLogs:
    """`folder` has one folder for each run, `services` with one for each service, and `environments` with the logs
    of builds."""

    def __init__(
        self,
        folder: Path,
        settings: RetentionSettings,
        store: Store,
        supervisor: Supervisor,
        clock: Callable[[], float],
        progress: Progress,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._store = store
        self._clock = clock
        self._folders = RunFolders(folder, store, supervisor, progress, (SERVICES, BUILDS))

    async def collect(self, going: Collection[str], *, dry_run: bool) -> tuple[Tally, Tally]:
        """Of runs, and others. `going` are runs that count as gone."""
        other_bytes = 0
        with tallied("logs of services and builds") as others:
            if not dry_run:
                await self._folders.empty_trash()
            other_bytes = await self._others(others, dry_run=dry_run)
        with tallied("logs of runs") as of_runs:
            await self._of_runs(of_runs, going, other_bytes, dry_run=dry_run)
        return of_runs, others

    async def _of_runs(self, tally: Tally, going: Collection[str], other_bytes: int, *, dry_run: bool) -> None:
        found = await self._folders.of_runs()
        ended = await self._folders.ended([logs.path.name for logs in found])
        doomed = [logs for logs in found if logs.path.name not in ended or logs.path.name in going]
        total = other_bytes + sum(logs.size_bytes for logs in found) - sum(logs.size_bytes for logs in doomed)
        limit, kept_s = self._settings.logs_bytes, self._settings.logs_s
        spared = set(found).difference(doomed)
        oldest_first = sorted((at, logs) for logs in spared if (at := ended[logs.path.name]) is not None)
        for ended_at, logs in oldest_first:
            is_old = kept_s and ended_at < self._clock() - kept_s
            if is_old or (limit and total > limit):
                doomed.append(logs)
                total -= logs.size_bytes
        gone = set(doomed) if dry_run else await self._folders.discarded(tally, doomed)
        self._folders.count(tally, found, gone)

    async def _others(self, tally: Tally, *, dry_run: bool) -> int:
        """Of services that are no more, and of builds that are long over; how many bytes stay."""
        kept_bytes = 0
        found = await run_sync(self._listed_others)
        recorded = await self._store.entries(reads.SERVICES)
        services = {*recorded.unreadable, *(record.name for record in recorded.readable)}
        of_services = {logs for logs in found if logs.path.parent.name == SERVICES and logs.path.name in services}
        kept_s, now = self._settings.logs_s, self._clock()
        doomed = [logs for logs in found if kept_s and logs.written_at < now - kept_s and logs not in of_services]
        gone = set(doomed) if dry_run else await self._folders.discarded(tally, doomed)
        for logs in found:
            if logs in gone:
                tally.remove(logs.size_bytes)
            else:
                kept_bytes += logs.size_bytes
                tally.keep("of a service" if logs in of_services else "recent", logs.size_bytes)
        return kept_bytes

    def _listed_others(self) -> list[Entry]:
        return list(measured([*entries(self._folder / SERVICES), *entries(self._folder / BUILDS)]))
