"""What the API asks of the daemon: see `fusemld.api.operations.Operations`."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from pathlib import Path

import anyio

from fusemld import __version__
from fusemld.api import present, views
from fusemld.daemon.applications import ApplicationBook
from fusemld.daemon.folder import Folder
from fusemld.daemon.performing import StepPerformer
from fusemld.daemon.plans import Plans
from fusemld.daemon.pulse import Pulse
from fusemld.daemon.settings import Settings
from fusemld.daemon.supervisor import Supervisor
from fusemld.daemon.tails import last_line
from fusemld.engine import events
from fusemld.hooks.executors import Executor
from fusemld.hooks.manager import Plugins
from fusemld.intake.triggers import Registered, judge
from fusemld.model.codeset import DEFAULT_PROJECT, Codeset, nearest_key
from fusemld.model.document import Document, DocumentRecord, DocumentState, Kind, RunRequest
from fusemld.model.errors import InvalidInputError, NotFoundError, StartError
from fusemld.model.extension import Extension
from fusemld.model.run import AttemptKey, Run, RunState, StepRun, StepState
from fusemld.model.workflow import Workflow
from fusemld.registry.explain import Explanation
from fusemld.registry.registry import Registry
from fusemld.services.supervisor import ServiceSupervisor
from fusemld.store.reads import RunQuery
from fusemld.store.sqlite import Store

COALESCE_S = 0.05
"""Between two views of a changing run."""
LOOK_S = 1.0
"""Between two looks at the log of a running step, which nobody tells us about."""

STATES = {DocumentState.ACCEPTED: "registered"}
"""How the states of documents are called for people, where it differs."""


class DaemonOperations:
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
        stop: Callable[[bool], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._plugins = plugins
        self._store = store
        self._supervisor = supervisor
        self._performer = performer
        self._plans = plans
        self._folder = folder
        self._registry = registry
        self._applications = applications
        self._services = services
        self._executors = executors
        self._stop = stop
        self._clock = clock
        self._started_at = clock()

    # The daemon itself

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
        components = (
            views.ComponentHealth(
                name="store", ok=self._supervisor.trouble is None, message=self._supervisor.trouble or ""
            ),
            views.ComponentHealth(name="watched folder", ok=catalog.available and not away, message=away),
            *(
                views.ComponentHealth(name=f"run {entry.run.id}", ok=False, message=entry.broken)
                for entry in self._supervisor.active.values()
                if entry.broken is not None
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

    # Runs

    async def runs(self, wanted: views.RunFilter) -> Sequence[views.RunSummary]:
        query = RunQuery(
            workflow=wanted.workflow,
            project=wanted.project,
            state=wanted.state,
            codeset=wanted.codeset,
            limit=wanted.limit,
        )
        found = [self._supervisor.find(run.id) or run for run in await self._store.runs(query)]
        return [present.run_summary(*await self._with_workflow(run), self._activity(run)) for run in found]

    async def run(self, run: str) -> views.RunView:
        return await self._view(await self._found(run))

    async def start_run(
        self, workflow: str, inputs: Mapping[str, str], executor: str | None, user: str
    ) -> views.RunView:
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

    async def cancel(self, run: str, by: str) -> views.RunView:
        found = await self._found(run)
        await self._supervisor.request(found.id, events.CancelRequested(at=self._clock(), by=by))
        return await self._view(await self._found(found.id))

    async def retry(self, run: str, by: str) -> views.RunView:
        found = await self._found(run)
        await self._supervisor.request(found.id, events.RetryRequested(at=self._clock(), by=by))
        return await self._view(await self._found(found.id))

    async def why(self, run: str) -> views.WhyView:
        found = await self._found(run)
        return present.why_view(*await self._with_workflow(found), self._activity(found))

    async def log_files(self, run: str, step: str | None, attempt: int | None) -> views.LogFiles:
        found = await self._found(run)
        if step is not None and step not in found.steps:
            names = ", ".join(self._ordered(found))
            raise NotFoundError(
                f"cannot show the log of {step!r}: run {found.id} has no such step (it has: {names})"
            )
        chosen = [found.steps[step]] if step is not None else list(found.steps.values())
        files = [
            (entry.launched_at, self._log_file(found, one, entry.number, entry.ended_at is not None))
            for one in chosen
            for entry in one.attempts
            if attempt is None or entry.number == attempt
        ]
        if attempt is not None and not files:
            raise NotFoundError(f"cannot show the log of attempt {attempt}: there is no such attempt")
        return views.LogFiles(
            files=tuple(file for _, file in sorted(files, key=lambda pair: pair[0])),
            complete=found.state is not RunState.RUNNING or all(one.state.is_final for one in chosen),
        )

    async def changes(self, run: str | None) -> AsyncGenerator[views.RunView]:
        if run is None:
            async for view in self._all_changes():
                yield view
            return
        found = await self._found(run)
        pulse = self._supervisor.watch(found.id)
        shown: views.RunView | None = None
        while True:
            seen = pulse.version
            found = await self._found(found.id)
            view = await self._view(found)
            if view != shown:
                shown = view
                yield view
            if found.state is not RunState.RUNNING:
                return
            with anyio.move_on_after(LOOK_S):
                await pulse.wait(seen)
            await anyio.sleep(COALESCE_S)

    async def _all_changes(self) -> AsyncGenerator[views.RunView]:
        pulse: Pulse = self._supervisor.changed
        shown: dict[str, tuple[Run, Mapping[str, str]]] = {}
        while True:
            seen = pulse.version
            current = {run_id: entry.run for run_id, entry in self._supervisor.active.items()}
            for run_id in shown.keys() - current.keys():
                current[run_id] = await self._found(run_id)
            for run_id, run in current.items():
                activity = self._activity(run)
                if shown.get(run_id) != (run, activity):
                    shown[run_id] = run, activity
                    yield present.run_view(*await self._with_workflow(run), activity)
                if run.state is not RunState.RUNNING:
                    del shown[run_id]
            await pulse.wait(seen)
            await anyio.sleep(COALESCE_S)

    # The watched folder

    async def files(self) -> Sequence[views.FileView]:
        found = [_file_view(row) for row in self._folder.catalog.records if _is_shown(row)]
        return sorted(found, key=lambda view: (view.path, view.line))

    # What is registered

    async def workflows(self) -> Sequence[views.WorkflowView]:
        found = self._folder.registered(Kind.WORKFLOW)
        return [self._workflow_view(found[name]) for name in sorted(found)]

    async def workflow(self, name: str) -> views.WorkflowView:
        return self._workflow_view(self._registered(Kind.WORKFLOW, name))

    async def codesets(self) -> Sequence[views.CodesetView]:
        found = self._folder.registered(Kind.CODESET)
        return [await self._codeset_view(found[key]) for key in sorted(found)]

    async def codeset(self, project: str, name: str) -> views.CodesetView:
        return await self._codeset_view(self._registered(Kind.CODESET, f"{project}/{name}"))

    async def extensions(self) -> Sequence[views.ExtensionView]:
        found = self._folder.registered(Kind.EXTENSION)
        return [self._extension_view(found[name]) for name in sorted(found)]

    async def extension(self, id: str) -> views.ExtensionView:  # noqa: A002 the interface's name
        return self._extension_view(self._registered(Kind.EXTENSION, id))

    async def explain(self, workflow: str, project: str | None, user: str) -> views.ExplanationView:
        declared = self._registered(Kind.WORKFLOW, workflow).declared
        assert isinstance(declared, Workflow)
        executor = self._executor(declared.executor or self._settings.executor)
        project = project or DEFAULT_PROJECT
        found = self._registry.explain(
            declared, executor=executor.name, zone=executor.zone, project=project, user=user
        )
        return views.ExplanationView(
            workflow=workflow,
            project=project,
            user=user,
            zone=executor.zone,
            requirements=tuple(_explained(entry) for entry in found),
        )

    async def check_extension(self, id: str) -> Sequence[views.CheckView]:  # noqa: A002 the interface's name
        self._registered(Kind.EXTENSION, id)
        zone = self._executor(self._settings.executor).zone
        return [
            views.CheckView(
                extension_id=check.extension_id,
                service_id=check.service_id,
                url=check.service.url if check.service else "",
                ok=check.result.ok,
                message=check.result.message,
            )
            for check in await self._registry.check(id, zone=zone, project=DEFAULT_PROJECT, user="")
        ]

    # What runs outlive

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

    async def delete_application(self, name: str) -> None:
        await self._applications.delete(name)

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

    # Inside

    def _executor(self, name: str) -> Executor:
        if name not in self._executors:
            known = ", ".join(sorted(self._executors))
            raise InvalidInputError(f"cannot use the executor {name!r}: this daemon has: {known}")
        return self._executors[name]

    async def _found(self, typed: str) -> Run:
        active = self._supervisor.find(typed)
        if active is not None:
            return active
        run_id = await self._store.find_run(typed)
        active = self._supervisor.find(run_id)
        stored = active or await self._store.run(run_id)
        if stored is None:
            raise NotFoundError(f"cannot find run {typed}: there is no such run")
        return stored

    async def _with_workflow(self, run: Run) -> tuple[Run, Workflow | None]:
        try:
            plan = await self._plans.plan(run.workflow_digest)
        except (NotFoundError, StartError):
            return run, None
        return run, plan.workflow

    async def _view(self, run: Run) -> views.RunView:
        return present.run_view(*await self._with_workflow(run), self._said(run) | self._activity(run))

    def _said(self, run: Run) -> dict[str, str]:
        """What running steps last wrote to their logs."""
        keys = (
            AttemptKey(run.id, step.name, step.attempt)
            for step in run.steps.values()
            if step.state is StepState.RUNNING
        )
        return {key.step: line for key in keys if (line := last_line(self._performer.log_path(key)))}

    def _activity(self, run: Run) -> dict[str, str]:
        """The live line of every step that has one; where codesets are fetched, that of every waiting step."""
        if run.state is not RunState.RUNNING:
            return {}
        pinning = self._performer.pinning.get(run.id)
        lines: dict[str, str] = {}
        for step in run.steps.values():
            line = self._step_activity(run, step) or (pinning if step.state is StepState.WAITING else None)
            if line:
                lines[step.name] = line
        return lines

    def _step_activity(self, run: Run, step: StepRun) -> str | None:
        if step.state is StepState.QUEUED:
            return self._supervisor.queued(run.id, step.name)
        return self._performer.activity.get(AttemptKey(run.id, step.name, step.attempt))

    def _ordered(self, run: Run) -> list[str]:
        plan = self._supervisor.plan_of(run.id)
        return list(plan.dag.names) if plan is not None else sorted(run.steps)

    def _log_file(self, run: Run, step: StepRun, attempt: int, has_ended: bool) -> views.LogFile:
        path: Path = self._performer.log_path(AttemptKey(run.id, step.name, attempt))
        return views.LogFile(step=step.name, attempt=attempt, path=path, finished=has_ended)

    def _registered(self, kind: Kind, name: str) -> Document:
        found = self._folder.registered(kind)
        if name not in found:
            raise NotFoundError(f"cannot show {kind} {name!r}: {self._undeclared(name, found)}")
        return found[name]

    def _undeclared(self, name: str, declared: Collection[str]) -> str:
        """Why there is no such thing, and what there is."""
        known = sorted(declared)
        near = nearest_key(name, known)
        hint = f"did you mean {near!r}?" if near else f"declared are: {', '.join(known[:10]) or 'none'}"
        return f"no file of {self._settings.folder} declares it ({hint})"

    def _file_of(self, document: Document) -> str:
        row = self._folder.catalog.record(f"{document.kind}/{document.name}")
        return row.file if row is not None else ""

    def _workflow_view(self, document: Document) -> views.WorkflowView:
        assert isinstance(document.declared, Workflow)
        return present.workflow_view(document.declared, self._file_of(document))

    async def _codeset_view(self, document: Document) -> views.CodesetView:
        assert isinstance(document.declared, Codeset)
        version = await self._version_of_latest_run(document.declared.key)
        return present.codeset_view(document.declared, version, self._file_of(document))

    async def _version_of_latest_run(self, codeset: str) -> str | None:
        for run in await self._store.runs(RunQuery(codeset=codeset, limit=1)):
            for pinned in (run.codesets or {}).values():
                if f"{pinned.project}/{pinned.name}" == codeset:
                    return pinned.version
        return None

    def _extension_view(self, document: Document) -> views.ExtensionView:
        assert isinstance(document.declared, Extension)
        return present.extension_view(document.declared, self._file_of(document))


def _is_shown(row: DocumentRecord) -> bool:
    return row.present or row.state is DocumentState.REJECTED


def _file_view(row: DocumentRecord) -> views.FileView:
    return views.FileView(
        path=row.file,
        line=row.line,
        kind=row.kind or "",
        name=row.name,
        state=STATES.get(row.state, row.state.value),
        detail=row.detail,
        generation=row.generation,
        run=row.run or None,
        problems=row.problems,
    )


def _service_state(services: Sequence[str], states: Mapping[str, str]) -> str:
    return next((states[name] for name in services if name in states), "")


def _explained(entry: Explanation) -> views.ExplainedRequirement:
    return views.ExplainedRequirement(
        step=entry.step,
        requirement=entry.requirement,
        wanted=entry.selectors,
        picked=entry.service,
        origin=entry.source,
        reason=entry.message,
        near_misses=tuple(
            views.NearMissView(
                extension_id=miss.extension_id,
                service_id=miss.service_id or "",
                selector=miss.selector,
                reason=miss.reason,
            )
            for miss in entry.near_misses
        ),
    )
