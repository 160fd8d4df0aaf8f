"""Which logs may go: of runs that are no more, old ones, and the oldest of ended runs where all are too much."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
from anyio.to_thread import run_sync

from fusemld.daemon.leisure import at_leisure
from fusemld.daemon.settings import RetentionSettings
from fusemld.daemon.supervisor import Supervisor
from fusemld.daemon.tally import Tally, tallied
from fusemld.daemon.trash import NAME as TRASH
from fusemld.daemon.trash import Trash, size_bytes
from fusemld.model.progress import Progress
from fusemld.store import reads
from fusemld.store.sqlite import Store

SERVICES = "services"
BUILDS = "environments"
ASKED_AT_ONCE = 500
REMOVED_AT_ONCE = 20


class _Logs(msgspec.Struct, frozen=True, order=True):
    """All logs of a run or a service, or that of a build."""

    path: Path
    written_at: float
    size_bytes: int


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
        self._supervisor = supervisor
        self._clock = clock
        self._progress = progress
        self._trash = Trash(folder)

    async def collect(self, going: Collection[str], *, dry_run: bool) -> tuple[Tally, Tally]:
        """Of runs, and others. `going` are runs that count as gone."""
        other_bytes = 0
        with tallied("logs of services and builds") as others:
            if not dry_run:
                await run_sync(self._trash.empty)
            other_bytes = await self._others(others, dry_run=dry_run)
        with tallied("logs of runs") as of_runs:
            await self._of_runs(of_runs, going, other_bytes, dry_run=dry_run)
        return of_runs, others

    async def _of_runs(self, tally: Tally, going: Collection[str], other_bytes: int, *, dry_run: bool) -> None:
        found = await run_sync(_listed, self._run_folders())
        ended = await self._ended([logs.path.name for logs in found])
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
        gone = set(doomed) if dry_run else await self._discarded(tally, doomed)
        for logs in found:
            if logs in gone:
                tally.remove(logs.size_bytes)
            elif self._supervisor.find(logs.path.name) is not None:
                tally.keep("of an unfinished run", logs.size_bytes)
            else:
                tally.keep("of a run that is kept", logs.size_bytes)

    async def _others(self, tally: Tally, *, dry_run: bool) -> int:
        """Of services that are no more, and of builds that are long over; how many bytes stay."""
        kept_bytes = 0
        found = await run_sync(_listed, [*_entries(self._folder / SERVICES), *_entries(self._folder / BUILDS)])
        recorded = await self._store.entries(reads.SERVICES)
        services = {*recorded.unreadable, *(record.name for record in recorded.readable)}
        of_services = {logs for logs in found if logs.path.parent.name == SERVICES and logs.path.name in services}
        kept_s, now = self._settings.logs_s, self._clock()
        doomed = [logs for logs in found if kept_s and logs.written_at < now - kept_s and logs not in of_services]
        gone = set(doomed) if dry_run else await self._discarded(tally, doomed)
        for logs in found:
            if logs in gone:
                tally.remove(logs.size_bytes)
            else:
                kept_bytes += logs.size_bytes
                tally.keep("of a service" if logs in of_services else "recent", logs.size_bytes)
        return kept_bytes

    def _run_folders(self) -> list[Path]:
        return [entry for entry in _entries(self._folder) if entry.name not in (SERVICES, BUILDS, TRASH)]

    async def _ended(self, runs: list[str]) -> dict[str, float | None]:
        """When the stored ones of these ended; None for those that go on."""
        ended: dict[str, float | None] = {}
        for start in range(0, len(runs), ASKED_AT_ONCE):
            ended |= await self._store.known_runs(runs[start : start + ASKED_AT_ONCE])
        return ended | dict.fromkeys((run for run in runs if self._supervisor.find(run) is not None), None)

    async def _discarded(self, tally: Tally, doomed: Sequence[_Logs]) -> set[_Logs]:
        """Those of them that are gone. A run that goes on again meanwhile keeps its logs: nothing happens between
        the question and the move."""
        gone: set[_Logs] = set()
        for start in range(0, len(doomed), REMOVED_AT_ONCE):
            async with at_leisure(self._progress):
                chosen = doomed[start : start + REMOVED_AT_ONCE]
                batch = [logs for logs in chosen if self._supervisor.find(logs.path.name) is None]
                taken: list[Path] = []
                try:
                    taken.extend(self._trash.take(logs.path) for logs in batch if logs.path.exists())
                except OSError as error:
                    tally.fail(str(error))
                await run_sync(self._remove, taken)
                gone.update(logs for logs in batch if not logs.path.exists())
        return gone

    def _remove(self, taken: Sequence[Path]) -> None:
        for path in taken:
            self._trash.remove(path)


def _entries(folder: Path) -> Iterable[Path]:
    with contextlib.suppress(FileNotFoundError):
        return list(folder.iterdir())
    return ()


def _listed(paths: Iterable[Path]) -> list[_Logs]:
    return list(_measured(paths))


def _measured(paths: Iterable[Path]) -> Iterator[_Logs]:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            files = [path, *path.iterdir()] if path.is_dir() else [path]
            yield _Logs(path, max(file.stat().st_mtime for file in files), size_bytes(path))
