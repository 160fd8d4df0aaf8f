"""What the API asks of the daemon: see `fusemld.api.operations.Operations`."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path

from fusemld import __version__
from fusemld.api import present, views
from fusemld.daemon.applications import ApplicationBook
from fusemld.daemon.backups import Backups
from fusemld.daemon.folder import Folder
from fusemld.daemon.performing import StepPerformer
from fusemld.daemon.plans import Plans
from fusemld.daemon.registered_operations import RegisteredOperations
from fusemld.daemon.retention import Retention
from fusemld.daemon.run_operations import RunOperations
from fusemld.daemon.settings import Settings
from fusemld.daemon.supervisor import Supervisor
from fusemld.daemon.watchdog import Watchdog
from fusemld.hooks.executors import Executor
from fusemld.hooks.manager import Plugins
from fusemld.intake.triggers import Registered, judge
from fusemld.model.document import Document, Kind, RunRequest
from fusemld.model.errors import InvalidInputError, NotFoundError
from fusemld.registry.registry import Registry
from fusemld.services.supervisor import ServiceSupervisor
from fusemld.store.sqlite import Store

LEAST_FREE_BYTES = 4 * 1024 * 1024
"""Below this a disk is called full: soon nothing can be recorded any more."""


class DaemonOperations(RunOperations, RegisteredOperations):
    def __init__(
        self,
        *,
        settings: Settings,
        plugins: Plugins,
        store: Store,
        supervisor: Supervisor,
        performer: StepPerformer,
        plans: Plans,
        folder: Folder,
        registry: Registry,
        applications: ApplicationBook,
        services: ServiceSupervisor,
        executors: Mapping[str, Executor],
        retention: Retention,
        backups: Backups,
        watchdog: Watchdog,
        stop: Callable[[bool], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        RunOperations.__init__(
            self,
            store=store,
            supervisor=supervisor,
            performer=performer,
            plans=plans,
            clock=clock,
            problems=watchdog.of,
        )
        RegisteredOperations.__init__(
            self, settings=settings, store=store, folder=folder, registry=registry, executors=executors
        )
        self._plugins = plugins
        self._applications = applications
        self._services = services
        self._retention = retention
        self._backups = backups
        self._watchdog = watchdog
        self._stop = stop
        self._started_at = clock()

    async def version(self) -> views.VersionView:
        return views.VersionView(
            version=__version__,
            platform=f"{platform.system().lower()}/{platform.machine()}",
            python=platform.python_version(),
            plugins=tuple(views.PluginView(name=name, version=version) for name, version in self._plugins.names),
        )

    async def health(self) -> views.HealthView:
        catalog = self._folder.catalog
        folder = str(self._settings.folder)
        away = f"{folder} cannot be seen; what it declared stays" if not catalog.available else catalog.warning
        trouble = self._supervisor.trouble or self._folder.trouble
        components = (
            views.ComponentHealth(name="store", ok=not trouble, message=trouble),
            _room(self._settings.state),
            views.ComponentHealth(name="watched folder", ok=catalog.available and not away, message=away),
            *(
                views.ComponentHealth(name=f"executor {name}", ok=condition.ok, message=condition.message)
                for name, condition in (
                    (name, self._executors[name].condition()) for name in sorted(self._executors)
                )
            ),
            *(
                views.ComponentHealth(name=f"run {entry.run.id}", ok=False, message=entry.broken)
                for entry in self._supervisor.active.values()
                if entry.broken is not None
            ),
            *(
                views.ComponentHealth(name=f"{table} {key}", ok=False, message=str(error))
                for table, unreadable in self._store.unreadable.items()
                for key, error in unreadable.items()
            ),
            *(
                views.ComponentHealth(name=finding.subject, ok=False, message=finding.message)
                for finding in self._watchdog.findings
            ),
        )
        is_ok = all(component.ok for component in components)
        active = [entry.run for entry in self._supervisor.active.values()]
        return views.HealthView(
            state=views.HealthState.OK if is_ok else views.HealthState.DEGRADED,
            pid=os.getpid(),
            started_at=views.moment(self._started_at),
            folder=folder,
            state_folder=str(self._settings.state),
            runs_active=len(active),
            steps_active=self._supervisor.slots_held,
            components=components,
        )

    async def stop(self, everything: bool) -> None:
        self._stop(everything)

    async def collect_garbage(self, dry_run: bool) -> views.UpkeepView:
        return await self._retention.collect(dry_run=dry_run)

    async def backup(self) -> AsyncGenerator[bytes]:
        return await self._backups.make()

    async def start_run(
        self, workflow: str, inputs: Mapping[str, str], executor: str | None, user: str
    ) -> views.RunView:
        self._demand_store()
        if executor is not None:
            self._executor(executor)
        request = RunRequest(name=workflow, workflow=workflow, inputs=dict(inputs), executor=executor)
        document = Document(kind=Kind.RUN, name=workflow, declared=request, canonical="", digest="")
        workflows = self._folder.registered(Kind.WORKFLOW)
        if workflow not in workflows:
            raise NotFoundError(f"cannot run workflow {workflow!r}: {self._undeclared(workflow, workflows)}")
        codesets = self._folder.registered(Kind.CODESET)
        verdict = judge(document, Registered(workflows=workflows, codesets=codesets))
        if not verdict.starts:
            problems = [problem.message for problem in verdict.problems]
            problems += [f"codeset {key!r}: {self._undeclared(key, codesets)}" for key in verdict.lacking]
            raise InvalidInputError(f"cannot run workflow {workflow!r}: " + "\n".join(problems))
        created = await self._folder.start(verdict.starts[0], user=user, cause=f"requested by {user}")
        return await self._view(await self._found(created.id))

    async def applications(self) -> Sequence[views.ApplicationView]:
        states = {state.name: state.state.value for state in self._services.states()}
        return [
            present.application_view(entry, _service_state(entry.services, states))
            for entry in await self._applications.all()
        ]

    async def application(self, name: str) -> views.ApplicationView:
        for view in await self.applications():
            if view.name == name:
                return view
        raise NotFoundError(f"cannot show application {name}: there is none of that name")

    async def delete_application(self, name: str, *, orphan: bool = False) -> None:
        await self._applications.delete(name, orphan=orphan)

    async def services(self) -> Sequence[views.ServiceView]:
        return [
            views.ServiceView(
                name=state.name,
                kind=state.kind,
                state=state.state,
                url=state.url,
                detail=state.message,
                pid=state.pid,
                since=views.moment(state.since),
                restarts=max(0, state.starts - 1),
                log=state.log,
            )
            for state in sorted(self._services.states(), key=lambda state: state.name)
        ]


def _service_state(services: Sequence[str], states: Mapping[str, str]) -> str:
    return next((states[name] for name in services if name in states), "")


def _room(state: Path) -> views.ComponentHealth:
    """The database has room of its own for a while, but no step can start on a full disk."""
    try:
        found = os.statvfs(state)
    except OSError as error:
        return views.ComponentHealth(name="disk", ok=False, message=f"cannot look at the disk: {error}")
    blocks = found.f_bfree if os.geteuid() == 0 else found.f_bavail
    free = blocks * found.f_frsize
    message = "" if free >= LEAST_FREE_BYTES else f"the disk is full: {free >> 20} MiB are left for {state}"
    return views.ComponentHealth(name="disk", ok=not message, message=message)
