"""A state folder of which things go: over a real database, real folders and a real supervisor."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from types import MappingProxyType
from typing import Any

import immutables

from fusemld.api.views import UpkeepPart, UpkeepView
from fusemld.codesets.codesets import Codesets
from fusemld.daemon.retention import Retention
from fusemld.daemon.settings import RetentionSettings
from fusemld.hooks.environments import EnvironmentSpec
from fusemld.hooks.services import ServiceContext, ServicePlan
from fusemld.hooks.steps import RuntimeFolders
from fusemld.intake.catalog import Catalog
from fusemld.model.codeset import Codeset, PinnedCodeset
from fusemld.model.run import Run, RunState, StepRun, StepState
from fusemld.registry.registry import Registry
from fusemld.store.changes import PutRun
from fusemld.store.sqlite import Store
from tests.daemon.running import Engine
from tests.daemon.watched import folder_of, scan_of

NOW = 10_000_000.0
DAY = 86_400.0
KEY = "0123456789abcdef01234567"
HELLO = "name: hello\nsteps: [{name: one, image: host, command: [echo]}]"
UNLIMITED = RetentionSettings(
    runs_s=0,
    runs_keep=0,
    logs_s=0,
    logs_bytes=0,
    environments_s=0,
    environments_bytes=0,
    downloads_bytes=0,
    codesets_s=0,
    codesets_bytes=0,
)


class Server:
    """A kind of service whose environment is what its parameters say."""

    kind = "server"
    description = ""
    requires: tuple[str, ...] = ()
    credentials: tuple[str, ...] = ()

    def environment(self, parameters: Mapping[str, str]) -> EnvironmentSpec | None:
        return EnvironmentSpec(label="", requirements=parameters["requirements"])

    def plan(self, context: ServiceContext) -> ServicePlan:
        raise AssertionError(context)


class Host:
    """A state folder with its daemon's parts."""

    def __init__(self, engine: Engine, state: Path, catalog: Catalog) -> None:
        self.engine = engine
        self.store: Store = engine.store
        self.state = state
        self.folders = RuntimeFolders(environments=state / "environments", cache=state / "cache")
        self.folders.environments.mkdir(parents=True, exist_ok=True)
        self.codesets = Codesets(state, (state,))
        self.folder = folder_of(engine, catalog, Registry())

    def retention(self, settings: RetentionSettings = UNLIMITED) -> Retention:
        return Retention(
            settings=settings,
            state=self.state,
            store=self.store,
            supervisor=self.engine.supervisor,
            folder=self.folder,
            codesets=self.codesets,
            folders=self.folders,
            kinds={"server": Server()},
            clock=self.engine.clock,
        )

    async def collect(self, *, dry_run: bool = False, **settings: float) -> dict[str, UpkeepPart]:
        """With these settings, everything else without limit."""
        values = {name: getattr(UNLIMITED, name) for name in UNLIMITED.__struct_fields__} | settings
        view: UpkeepView = await self.retention(RetentionSettings(**values)).collect(dry_run=dry_run)
        return {part.what: part for part in view.parts}

    async def ended(self, run: str, days_ago: float, state: RunState = RunState.SUCCEEDED, **fields: Any) -> None:
        """A run in the database."""
        final = StepState.SUCCEEDED if state is RunState.SUCCEEDED else StepState.FAILED
        await self.store.write(PutRun(stored(run, NOW - days_ago * DAY, state, final, **fields)))

    async def runs(self) -> list[str]:
        return sorted(run.id for run in await self.store.runs())

    def logs(self, run: str, size_bytes: int = 1000) -> Path:
        folder = self.state / "logs" / run
        folder.mkdir(parents=True)
        (folder / "one.1.log").write_bytes(b"x" * size_bytes)
        return folder

    async def outputs(self, run: str) -> Path:
        """What is too long for the database."""
        await self.store.keep_outputs(run, {"o": "x" * 100_000})
        return self.store.outputs_folder / run

    async def pinned(self, name: str, days_ago: float, size_bytes: int = 1000) -> PinnedCodeset:
        """A codeset of one file, of which a copy was asked for last so long ago."""
        source = self.state / name
        source.mkdir()
        (source / "a.txt").write_text((name * size_bytes)[:size_bytes])
        pin = await self.codesets.pin(Codeset(name=name, path=str(source)))
        os.utime(self.state / "codesets" / "content" / pin.digest, (NOW - days_ago * DAY,) * 2)
        return pin

    def environment(self, key: str, days_ago: float) -> Path:
        folder = self.folders.environments / key
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").symlink_to(sys.executable)
        marker = folder / "fusemld-environment.json"
        marker.write_text("{}")
        os.utime(marker, (NOW - days_ago * DAY,) * 2)
        return folder

    def damage(self, statement: str) -> None:
        """Execute it behind the back of the store."""
        with closing(sqlite3.connect(self.state.parent / "fusemld.db")) as connection, connection:
            connection.execute(statement)

    async def see(self, *removed: str, **files: str) -> None:
        await self.folder.on_scan(scan_of(*removed, **files))


def stored(
    run: str,
    finished_at: float | None,
    state: RunState,
    step: StepState,
    *,
    digest: str = "",
    cause: str = "",
    outputs: Mapping[str, str] = MappingProxyType({}),
    codesets: Mapping[str, PinnedCodeset] | None = None,
) -> Run:
    one = StepRun(name="one", state=step, outputs=dict(outputs))
    return Run(
        id=run,
        workflow="w",
        workflow_digest=digest or f"digest of {run}",
        cause=cause,
        created_at=NOW - 100 * DAY,
        finished_at=finished_at,
        state=state,
        steps=immutables.Map({"one": one}),
        codesets=None if codesets is None else dict(codesets),
    )


OpenHost = Callable[[], AbstractAsyncContextManager[Host]]
