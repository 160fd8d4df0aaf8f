"""Which built environments may go: those that nothing uses and nobody has asked for in a long time. And what they
were built from, where that is too much."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec
import structlog
from anyio.to_thread import run_sync

from fusemld.daemon.folder import Folder
from fusemld.daemon.leisure import at_leisure
from fusemld.daemon.settings import RetentionSettings
from fusemld.daemon.tally import Tally, tallied
from fusemld.daemon.trash import Trash, size_bytes
from fusemld.hooks.building import discard_downloads, discard_environment, environments, may_discard
from fusemld.hooks.services import ServiceKind
from fusemld.hooks.steps import RuntimeFolders
from fusemld.model.progress import Progress
from fusemld.store.errors import DamagedError
from fusemld.store.reads import SERVICES
from fusemld.store.sqlite import Store

log = structlog.get_logger(__name__)

KEPT_S = 3600.0
"""The least time that an environment is kept after it was asked for: who asked may not have begun to use it."""


class _Environment(msgspec.Struct, frozen=True):
    key: str
    used_at: float
    size_bytes: int


class RetainedEnvironments:
    def __init__(
        self,
        folders: RuntimeFolders,
        state: Path,
        settings: RetentionSettings,
        store: Store,
        folder: Folder,
        kinds: Mapping[str, ServiceKind],
        clock: Callable[[], float],
        progress: Progress,
    ) -> None:
        self._folders = folders
        self._state = state
        self._settings = settings
        self._store = store
        self._folder = folder
        self._kinds = kinds
        self._clock = clock
        self._progress = progress
        self._trash = Trash(folders.environments)

    async def collect(self, going: Collection[str], *, dry_run: bool) -> Tally:
        """`going` are runs that count as gone."""
        with tallied("environments") as tally:
            await self._collect(tally, going, dry_run=dry_run)
        return tally

    async def collect_downloads(self, *, dry_run: bool) -> Tally:
        """A cache that is not below `state` is also somebody else's."""
        with tallied("downloads of uv") as tally:
            await self._collect_downloads(tally, dry_run=dry_run)
        return tally

    async def _collect(self, tally: Tally, going: Collection[str], *, dry_run: bool) -> None:
        settings, now = self._settings, self._clock()
        if not dry_run:
            await run_sync(self._trash.empty)
        found = await run_sync(self._found)
        total = sum(environment.size_bytes for environment in found)
        used = await self._used_now()
        for environment in sorted(found, key=lambda one: one.used_at):
            size = environment.size_bytes
            is_old = bool(settings.environments_s) and environment.used_at < now - settings.environments_s
            is_too_much = bool(settings.environments_bytes) and total > settings.environments_bytes
            if not (is_old or is_too_much) or environment.used_at >= now - KEPT_S:
                tally.keep("recent", size)
            elif reason := used.get(environment.key) or used.get("") or await self._needed(environment.key, going):
                tally.keep(reason, size)
            elif await self._is_discarded(environment, now - KEPT_S, dry_run=dry_run):
                tally.remove(size)
                total -= size
            else:
                tally.keep("recent", size)

    async def _collect_downloads(self, tally: Tally, *, dry_run: bool) -> None:
        limit, cache = self._settings.downloads_bytes, self._folders.cache
        is_own = cache.is_relative_to(self._state)
        size = await run_sync(size_bytes, cache) if is_own else 0
        if not limit or size <= limit:
            tally.keep("within the limit" if is_own else "not in the state folder", size)
        elif dry_run or await run_sync(discard_downloads, self._folders):
            tally.remove(size)
        else:
            tally.keep("used by a build", size)

    def _found(self) -> list[_Environment]:
        place = self._folders.environments
        return [
            _Environment(key, used_at, size_bytes(place / key)) for key, used_at in environments(self._folders)
        ]

    async def _used_now(self) -> dict[str, str]:
        """What services and processes use, with the reason; the key is empty for a reason that holds for all."""
        used = await run_sync(_used_by_processes, self._folders.environments)
        services = await self._store.entries(SERVICES)
        for name in services.unreadable:
            used[""] = f"perhaps used by the service {name}, whose record cannot be read"
        for record in services.readable:
            kind = self._kinds.get(record.kind)
            try:
                spec = None if kind is None else await run_sync(kind.environment, record.parameters)
            except Exception as error:  # noqa: BLE001 - a plugin's bug, or a service that is half gone
                log.warning("retention.unknown_environment", service=record.name, error=str(error))
                kind = None
            if kind is None:
                used[""] = f"perhaps used by the service {record.name}, which does not say"
            elif spec is not None:
                used[spec.key] = "used by a service"
        return used

    async def _needed(self, key: str, going: Collection[str]) -> str:
        """By whom that goes on or can be asked to; empty if by nobody."""
        try:
            if await self._store.run_naming(key, going) is not None:
                return "used by a run that goes on or can be retried"
        except DamagedError:
            return "perhaps used by a run that cannot be read"
        if any(key in (row.canonical or "") for row in self._folder.catalog.records if row.present):
            return "named by a document"
        return ""

    async def _is_discarded(self, environment: _Environment, unused_since: float, *, dry_run: bool) -> bool:
        """Or, with `dry_run`, would be."""
        async with at_leisure(self._progress):
            key, folders = environment.key, self._folders
            if dry_run:
                return await run_sync(may_discard, key, folders, unused_since)
            place = await run_sync(self._trash.place)
            if not await run_sync(discard_environment, key, folders, unused_since, place):
                return False
            await run_sync(self._trash.remove, place)
            return True


def _used_by_processes(environments: Path) -> dict[str, str]:
    """Those whose path is on the command line of a process."""
    pattern = re.compile(re.escape(f"{environments}/").encode() + rb"([0-9a-f]{24})/")
    used: dict[str, str] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes()
            except OSError:
                continue
            used |= {key.decode(): "used by a running process" for key in pattern.findall(words)}
    return used
