"""Steering steps of plugins: async code in the daemon, resumed after a restart, safe to repeat."""

from __future__ import annotations

import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import anyio
import structlog
from anyio.abc import TaskGroup

from fusemld.daemon.patience import patiently
from fusemld.daemon.step_log import StepLog
from fusemld.executors.masking import HOLDS_CREDENTIAL
from fusemld.executors.outputs import refused
from fusemld.hooks.clusters import Clusters
from fusemld.hooks.environments import Environments, Note
from fusemld.hooks.executors import AttemptFinished, AttemptStarted, Report
from fusemld.hooks.services import Services
from fusemld.hooks.steps import Applications, PluginStep, RuntimeFolders
from fusemld.hooks.stores import ObjectStore, ObjectStoreFactory
from fusemld.model import faults
from fusemld.model.codeset import PinnedCodeset
from fusemld.model.errors import FusemldError, StartError
from fusemld.model.extension import ServiceAccess
from fusemld.model.run import AttemptKey, Ending, Outcome

log = structlog.get_logger(__name__)


class Context:
    """What a plugin step may use: see `fusemld.hooks.steps.StepContext`."""

    def __init__(
        self,
        *,
        key: AttemptKey,
        workflow: str,
        project: str,
        executor: str,
        run_created_at: float,
        inputs: Mapping[str, str],
        codesets: Mapping[str, PinnedCodeset],
        extensions: Mapping[str, ServiceAccess],
        outputs: tuple[str, ...],
        services: Services,
        clusters: Clusters,
        as_daemon: Callable[[ServiceAccess], Awaitable[ServiceAccess]],
        environments: Environments,
        applications: Applications,
        folders: RuntimeFolders,
        work: Path,
        note: Note,
        step_log: StepLog,
        object_stores: Mapping[str, ObjectStoreFactory],
    ) -> None:
        self.key = key
        self.workflow = workflow
        self.project = project
        self.executor = executor
        self.run_created_at = run_created_at
        self.inputs = inputs
        self.codesets = codesets
        self.extensions = extensions
        self.outputs = outputs
        self.services = services
        self.clusters = clusters
        self.environments = environments
        self.applications = applications
        self.folders = folders
        self.work = work
        self.is_killed = False
        self.step_log = step_log
        self._note = note
        self._as_daemon = as_daemon
        self._object_stores = object_stores

    def note(self, text: str) -> None:
        text = self.step_log.mask(text)
        self.step_log.write(text)
        self._note(text)

    def log(self, text: str) -> None:
        self.step_log.write(text)

    async def as_daemon(self, access: ServiceAccess) -> ServiceAccess:
        return await self._as_daemon(access)

    def object_store(self, access: ServiceAccess) -> ObjectStore:
        factory = self._object_stores.get("s3")
        if factory is None:
            raise StartError("cannot reach the object store: no plugin gives access to s3: install fusemld-s3")
        return factory.open(access)


class Steering:
    """Runs plugin steps as tasks and reports on them like an executor. Cancelling its task group leaves no
    trace: a step that has not ended is run again by the next daemon, at the same attempt."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._running: dict[AttemptKey, tuple[anyio.CancelScope, Context]] = {}

    def is_running(self, key: AttemptKey) -> bool:
        return key in self._running

    def launch(self, tasks: TaskGroup, step: PluginStep, context: Context, report: Report) -> None:
        """Nothing happens where the attempt is running already."""
        if context.key not in self._running:
            scope = anyio.CancelScope()
            self._running[context.key] = scope, context
            tasks.start_soon(self._run, step, context, report, scope, name=f"step {context.key}")

    def kill(self, key: AttemptKey) -> None:
        """Cancel the step; its end is reported. Unknown keys are ignored."""
        if key in self._running:
            scope, context = self._running[key]
            context.is_killed = True
            scope.cancel()

    async def _run(self, step: PluginStep, context: Context, report: Report, scope: anyio.CancelScope) -> None:
        key = context.key
        report(AttemptStarted(key=key, at=self._clock()))
        outcome = Outcome(ending=Ending.CANCELLED, message="stopped")
        outputs: Mapping[str, str] = {}
        faults.point("steering.started")
        with scope:
            outcome, outputs = await self._until_done(step, context)
        faults.point("steering.ended")
        del self._running[key]
        if outcome.ending is not Ending.SUCCEEDED:
            context.log(outcome.message)
        report(AttemptFinished(key=key, at=self._clock(), outcome=outcome, outputs=outputs))

    async def _until_done(self, step: PluginStep, context: Context) -> tuple[Outcome, Mapping[str, str]]:
        mask = context.step_log.mask
        try:
            outputs = await patiently(lambda: step.run(context), context.note)
        except FusemldError as error:
            return self._failed(context, str(error)), {}
        except Exception as error:  # noqa: BLE001 - logged, but not as it is: it may hold a secret
            log.error("step.crashed", key=str(context.key), traceback=mask(traceback.format_exc()))
            return self._failed(context, f"the plugin failed: {type(error).__name__}: {error}"), {}
        missing = [name for name in context.outputs if name not in outputs]
        if missing:
            message = f"the plugin did not give the output {', '.join(missing)}"
            return Outcome(ending=Ending.OUTPUT_MISSING, message=message), {}
        given = {name: outputs[name] for name in context.outputs}
        exposed = [name for name, value in given.items() if mask.hides(value)]
        if exposed:
            message = refused(dict.fromkeys(exposed, HOLDS_CREDENTIAL))
            return Outcome(ending=Ending.OUTPUT_REFUSED, message=message), {}
        return Outcome(ending=Ending.SUCCEEDED), given

    def _failed(self, context: Context, message: str) -> Outcome:
        message = context.step_log.mask(message)
        return Outcome(ending=Ending.PROGRAM_FAILED, message=message, tail=context.step_log.tail())
