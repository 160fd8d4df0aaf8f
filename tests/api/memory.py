"""An in-memory stand-in for the daemon: it answers what a test has put into it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence

import anyio
import msgspec

from fusemld.api import registry_views, views
from fusemld.model.errors import ConflictError, InvalidInputError, NotFoundError, UnavailableError
from fusemld.model.run import RunState, StepState

START = views.moment(1_790_000_000.0)


class MemoryOperations:
    """`asked` records what was requested of it; `raises` is raised by `health`. An
    empty one of `backup_chunks` stands for a disk that fails there."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.raises: Exception | None = None
        self.run_views: dict[str, views.RunView] = {}
        self.log_views: dict[str, views.LogFiles] = {}
        self.why_views: dict[str, views.WhyView] = {}
        self.file_views: list[views.FileView] = []
        self.workflow_views: list[views.WorkflowView] = []
        self.codeset_views: list[views.CodesetView] = []
        self.extension_views: list[registry_views.ExtensionView] = []
        self.application_views: list[views.ApplicationView] = []
        self.orphaned: list[str] = []
        self.service_views: list[views.ServiceView] = []
        self.explanation: registry_views.ExplanationView | None = None
        self.checks: list[registry_views.CheckView] = []
        self.upkeep_parts: list[views.UpkeepPart] = []
        self.backup_chunks: list[bytes] = []
        self.watched = anyio.Event()
        self._changed = anyio.Event()

    async def put(self, run: views.RunView) -> None:
        """A run, new or changed; its followers are told."""
        self.run_views[run.id] = run
        self._changed.set()
        self._changed = anyio.Event()

    async def version(self) -> views.VersionView:
        plugins = (views.PluginView(name="mlflow", version="0.1.0"),)
        return views.VersionView(version="0.1.0", platform="linux-x86_64", python="3.11.7", plugins=plugins)

    async def health(self) -> views.HealthView:
        if self.raises:
            raise self.raises
        return views.HealthView(
            state=views.HealthState.OK, pid=1, started_at=START, folder="/srv/inbox", state_folder="/srv/state"
        )

    async def stop(self, everything: bool) -> None:
        self.asked.append(("stop", str(everything)))

    async def collect_garbage(self, dry_run: bool) -> views.UpkeepView:
        self.asked.append(("gc", str(dry_run)))
        return views.UpkeepView(dry_run=dry_run, parts=tuple(self.upkeep_parts))

    async def backup(self) -> AsyncGenerator[bytes]:
        async def content() -> AsyncGenerator[bytes]:
            for chunk in self.backup_chunks:
                if not chunk:
                    raise OSError("the disk is gone")
                yield chunk

        return content()

    async def runs(self, wanted: views.RunFilter) -> Sequence[views.RunSummary]:
        self.asked.append(("runs", repr(wanted)))
        found = [_summary(run) for run in reversed(self.run_views.values())]
        return [run for run in found if wanted.state in (None, run.state)][: wanted.limit]

    async def run(self, run: str) -> views.RunView:
        if run == "latest" and self.run_views:
            return next(reversed(self.run_views.values()))
        found = [each for id_, each in self.run_views.items() if id_.startswith(run)]
        if not found:
            raise NotFoundError(f"cannot find run {run}: there is no such run")
        if len(found) > 1:
            raise InvalidInputError(f"cannot choose run {run}: {', '.join(each.id for each in found)} begin so")
        return found[0]

    async def start_run(
        self, workflow: str, inputs: Mapping[str, str], executor: str | None, user: str
    ) -> views.RunView:
        self.asked.append(("start", workflow, repr(dict(inputs)), repr(executor), user))
        run = run_view(f"r{len(self.run_views) + 1}", workflow=workflow, inputs=dict(inputs), user=user)
        await self.put(run)
        return run

    async def cancel(self, run: str, by: str) -> views.RunView:
        found = await self.run(run)
        if found.state is not RunState.RUNNING:
            raise ConflictError(f"cannot cancel run {found.id}: it has {found.state}")
        self.asked.append(("cancel", found.id, by))
        return found

    async def retry(self, run: str, by: str) -> views.RunView:
        found = await self.run(run)
        self.asked.append(("retry", found.id, by))
        return found

    async def why(self, run: str) -> views.WhyView:
        return self.why_views[(await self.run(run)).id]

    async def log_files(self, run: str, step: str | None, attempt: int | None) -> views.LogFiles:
        listed = self.log_views[(await self.run(run)).id]
        files = tuple(
            file for file in listed.files if step in (None, file.step) and attempt in (None, file.attempt)
        )
        if not files and step:
            raise NotFoundError(f"cannot show the log of {step!r}: the run has no such step")
        return msgspec.structs.replace(listed, files=files)

    async def changes(self, run: str | None) -> AsyncGenerator[views.RunView]:
        while True:
            changed = self._changed
            self.watched.set()
            for each in self.run_views.values() if run is None else [self.run_views[run]]:
                yield each
                if run is not None and each.state is not RunState.RUNNING:
                    return
            await changed.wait()

    async def files(self) -> Sequence[views.FileView]:
        return self.file_views

    async def workflows(self) -> Sequence[views.WorkflowView]:
        return self.workflow_views

    async def workflow(self, name: str) -> views.WorkflowView:
        for each in self.workflow_views:
            if each.name == name:
                return each
        raise NotFoundError(f"cannot show workflow {name}: there is none of that name")

    async def codesets(self) -> Sequence[views.CodesetView]:
        return self.codeset_views

    async def codeset(self, project: str, name: str) -> views.CodesetView:
        for each in self.codeset_views:
            if (each.project, each.name) == (project, name):
                return each
        raise NotFoundError(f"cannot show codeset {project}/{name}: there is none of that name")

    async def extensions(self) -> Sequence[registry_views.ExtensionView]:
        return self.extension_views

    async def extension(self, id: str) -> registry_views.ExtensionView:  # noqa: A002
        for each in self.extension_views:
            if each.id == id:
                return each
        raise NotFoundError(f"cannot show extension {id}: there is none of that id")

    async def explain(self, workflow: str, project: str | None, user: str) -> registry_views.ExplanationView:
        self.asked.append(("explain", workflow, repr(project), user))
        if self.explanation is None:
            raise NotFoundError(f"cannot explain workflow {workflow}: there is none of that name")
        return self.explanation

    async def check_extension(
        self,
        id: str,  # noqa: A002
        project: str | None,
        user: str,
    ) -> Sequence[registry_views.CheckView]:
        self.asked.append(("check", id, repr(project), user))
        return self.checks

    async def applications(self) -> Sequence[views.ApplicationView]:
        return self.application_views

    async def application(self, name: str) -> views.ApplicationView:
        for each in self.application_views:
            if each.name == name:
                return each
        raise NotFoundError(f"cannot show application {name}: there is none of that name")

    async def delete_application(self, name: str, *, orphan: bool = False) -> None:
        found = await self.application(name)
        self.orphaned += [name] if orphan else []
        self.application_views.remove(found)

    async def services(self) -> Sequence[views.ServiceView]:
        if self.raises:
            raise UnavailableError("cannot list services: the keeper does not answer")
        return self.service_views


def run_view(
    id: str,  # noqa: A002
    *,
    workflow: str = "mlflow-e2e",
    state: RunState = RunState.RUNNING,
    message: str = "",
    user: str = "ada",
    inputs: dict[str, str] | None = None,
    outputs: dict[str, str] | None = None,
    steps: tuple[views.StepView, ...] = (),
) -> views.RunView:
    over = state is not RunState.RUNNING
    return views.RunView(
        id=id,
        workflow=workflow,
        project="default",
        user=user,
        executor="process",
        state=state,
        message=message,
        failed_step=next((step.name for step in steps if step.state is StepState.FAILED), ""),
        created_at=START,
        finished_at=views.moment(START.timestamp() + 25.0) if over else None,
        inputs=inputs or {},
        outputs=outputs or {},
        steps=steps,
    )


def step_view(
    name: str,
    state: StepState,
    *,
    reason: str = "",
    activity: str = "",
    duration_s: float | None = None,
    attempts: tuple[views.AttemptView, ...] = (),
) -> views.StepView:
    return views.StepView(
        name=name,
        state=state,
        reason=reason,
        activity=activity,
        started_at=START if state.is_active or duration_s is not None else None,
        finished_at=None if duration_s is None else views.moment(START.timestamp() + duration_s),
        duration_s=duration_s,
        attempts=attempts,
    )


def _summary(run: views.RunView) -> views.RunSummary:
    return views.RunSummary(
        id=run.id,
        workflow=run.workflow,
        project=run.project,
        user=run.user,
        executor=run.executor,
        state=run.state,
        message=run.message,
        now=next((f"{step.name}: {step.activity}" for step in run.steps if step.activity), ""),
        created_at=run.created_at,
        finished_at=run.finished_at,
        steps_done=sum(step.state is StepState.SUCCEEDED for step in run.steps),
        steps_total=len(run.steps),
        inputs=run.inputs,
        outputs=run.outputs,
    )
