"""Folders with one folder for each run, of which some go."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
from anyio.to_thread import run_sync

from fusemld.daemon.leisure import at_leisure
from fusemld.daemon.supervisor import Supervisor
from fusemld.daemon.tally import Tally
from fusemld.daemon.trash import NAME as TRASH
from fusemld.daemon.trash import Trash, size_bytes
from fusemld.model.progress import Progress
from fusemld.store.sqlite import Store

ASKED_AT_ONCE = 500
REMOVED_AT_ONCE = 20


class Entry(msgspec.Struct, frozen=True, order=True):
    """What there is of a run, a service or a build."""

    path: Path
    written_at: float
    size_bytes: int


class RunFolders:
    """`folder` has one folder for each run, and others, whose names are in `others`."""

    def __init__(
        self, folder: Path, store: Store, supervisor: Supervisor, progress: Progress, others: Sequence[str] = ()
    ) -> None:
        self._folder = folder
        self._store = store
        self._supervisor = supervisor
        self._progress = progress
        self._others = (*others, TRASH)
        self._trash = Trash(folder)

    async def empty_trash(self) -> None:
        """Of an earlier life."""
        await run_sync(self._trash.empty)

    async def of_runs(self) -> list[Entry]:
        return await run_sync(self._listed)

    def _listed(self) -> list[Entry]:
        return list(measured(entry for entry in entries(self._folder) if entry.name not in self._others))

    async def ended(self, runs: Sequence[str]) -> dict[str, float | None]:
        """When those of these runs that are stored ended; None for those that go on."""
        ended: dict[str, float | None] = {}
        for start in range(0, len(runs), ASKED_AT_ONCE):
            ended |= await self._store.known_runs(runs[start : start + ASKED_AT_ONCE])
        return ended | dict.fromkeys((run for run in runs if self.goes_on(run)), None)

    def goes_on(self, run: str) -> bool:
        return self._supervisor.find(run) is not None

    async def discarded(self, tally: Tally, doomed: Sequence[Entry]) -> set[Entry]:
        """Those of them that are gone. A run that goes on again meanwhile keeps what it has: nothing happens
        between the question and the move."""
        gone: set[Entry] = set()
        for start in range(0, len(doomed), REMOVED_AT_ONCE):
            async with at_leisure(self._progress):
                chosen = doomed[start : start + REMOVED_AT_ONCE]
                batch = [entry for entry in chosen if not self.goes_on(entry.path.name)]
                taken: list[Path] = []
                try:
                    taken.extend(self._trash.take(entry.path) for entry in batch if entry.path.exists())
                except OSError as error:
                    tally.fail(str(error))
                await run_sync(self._remove, taken)
                gone.update(entry for entry in batch if not entry.path.exists())
        return gone

    def count(self, tally: Tally, found: Sequence[Entry], gone: Collection[Entry]) -> None:
        """What went of what was found, and what keeps the rest."""
        for entry in found:
            if entry in gone:
                tally.remove(entry.size_bytes)
            elif self.goes_on(entry.path.name):
                tally.keep("of an unfinished run", entry.size_bytes)
            else:
                tally.keep("of a run that is kept", entry.size_bytes)

    def _remove(self, taken: Sequence[Path]) -> None:
        for path in taken:
            self._trash.remove(path)


def entries(folder: Path) -> Iterable[Path]:
    with contextlib.suppress(FileNotFoundError):
        return list(folder.iterdir())
    return ()


def measured(paths: Iterable[Path]) -> Iterator[Entry]:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            files = [path, *path.iterdir()] if path.is_dir() else [path]
            yield Entry(path, max(file.stat().st_mtime for file in files), size_bytes(path))
