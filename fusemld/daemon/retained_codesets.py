"""Which copies of codesets and mirrors of repositories may go: those that nothing needs and nobody has asked for
in a long time, and where all are too much those that nobody has asked for for longest."""

from __future__ import annotations

from collections.abc import Callable, Collection

from anyio.to_thread import run_sync

from fusemld.codesets.cache import KEPT_S, Copy
from fusemld.codesets.codesets import Codesets
from fusemld.daemon.leisure import at_leisure
from fusemld.daemon.settings import RetentionSettings
from fusemld.daemon.supervisor import Supervisor
from fusemld.daemon.tally import Tally, tallied
from fusemld.daemon.trash import size_bytes
from fusemld.model.progress import Progress
from fusemld.store.errors import DamagedError
from fusemld.store.sqlite import Store


class RetainedCodesets:
    def __init__(
        self,
        codesets: Codesets,
        settings: RetentionSettings,
        store: Store,
        supervisor: Supervisor,
        clock: Callable[[], float],
        progress: Progress,
    ) -> None:
        self._codesets = codesets
        self._settings = settings
        self._store = store
        self._supervisor = supervisor
        self._clock = clock
        self._progress = progress

    async def collect(self, going: Collection[str], *, dry_run: bool) -> Tally:
        """`going` are runs that count as gone."""
        with tallied("copies of codesets") as tally:
            await self._collect(tally, going, dry_run=dry_run)
        return tally

    async def _collect(self, tally: Tally, going: Collection[str], *, dry_run: bool) -> None:
        settings, now = self._settings, self._clock()
        needed = await self._needed(going)
        found = [(copy, await self._size_bytes(copy)) for copy in await self._codesets.copies()]
        total = sum(size for _, size in found)
        for copy, size in sorted(found, key=lambda one: one[0].used_at):
            is_old = bool(settings.codesets_s) and copy.used_at < now - settings.codesets_s
            is_too_much = bool(settings.codesets_bytes) and total > settings.codesets_bytes
            if needed is None:
                tally.keep("perhaps used by a run that cannot be read", size)
            elif copy.digest in needed:
                tally.keep("used by a run that goes on or can be retried", size)
            elif not (is_old or is_too_much):
                tally.keep("recent", size)
            elif await self._is_discarded(copy, now - KEPT_S, dry_run=dry_run):
                tally.remove(size)
                total -= size
            else:
                tally.keep("recent", size)

    async def _needed(self, going: Collection[str]) -> set[str] | None:
        """The contents that runs use which go on, or which can be asked to; None where one of them cannot tell."""
        try:
            needed = await self._store.pinned_digests(going)
        except DamagedError:
            return None
        for entry in self._supervisor.active.values():
            needed |= {pinned.digest for pinned in (entry.run.codesets or {}).values()}
        return needed

    async def _size_bytes(self, copy: Copy) -> int:
        async with at_leisure(self._progress):
            return await run_sync(size_bytes, copy.path)

    async def _is_discarded(self, copy: Copy, unused_since: float, *, dry_run: bool) -> bool:
        """Or, with `dry_run`, would be."""
        async with at_leisure(self._progress):
            return await self._codesets.discard(copy, unused_since, dry_run=dry_run)
