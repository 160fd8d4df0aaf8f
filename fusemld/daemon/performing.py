"""Performs the engine's effects: prepares attempts, hands them to executors, and tells what came of it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup, TaskStatus

from fusemld.daemon.pinning import Pinner
from fusemld.daemon.steering import Context, Steering, StepLog
from fusemld.daemon.step_inputs import check_inputs
from fusemld.daemon.supervisor import Supervisor
from fusemld.daemon.variables import input_values, lookup, public, selectors, step_variables
from fusemld.engine import effects, events
from fusemld.engine.plan import Plan
from fusemld.engine.values import codeset_references
from fusemld.hooks.environments import Environments, Note
from fusemld.hooks.executors import AttemptFinished, AttemptStarted, Executor, Launch, MountedCodeset
from fusemld.hooks.manager import Plugins, repository
from fusemld.hooks.services import Services
from fusemld.hooks.steps import Applications, PluginStep, RuntimeFolders
from fusemld.model import faults
from fusemld.model.backoff import backoff_s
from fusemld.model.codeset import PinnedCodeset
from fusemld.model.errors import FusemldError, StartError, UnavailableError
from fusemld.model.extension import ResolvedService, ServiceAccess
from fusemld.model.run import AttemptKey, Ending, Outcome, Run
from fusemld.model.template import Lookup
from fusemld.model.workflow import Step
from fusemld.registry.registry import Registry

log = structlog.get_logger(__name__)

Starting = Callable[[], Awaitable[None]]
"""The rest of a launch: from here on the attempt may exist."""


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What preparing an attempt needs of the rest of the daemon."""

    plugins: Plugins
    executors: Mapping[str, Executor]
    registry: Registry
    pinner: Pinner
    services: Services
    environments: Environments
    applications: Applications
    folders: RuntimeFolders
    state: Path
    grace_s: float
    extensions_read: Callable[[Note], Awaitable[None]]
    """Returns once the registry holds every record that is known to exist."""


class _Launching:
    """An attempt on its way to its executor; `handed_over` once it cannot be called back any more, `is_over`
    once its end is known all the same (the keeper was killed while it started it): it must not be tried again."""

    __slots__ = ("ending", "handed_over", "is_over", "scope")

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.handed_over = False
        self.is_over = False
        self.ending: Ending | None = None


class _Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is told to the engine when the attempt starts or ends."""

    services: tuple[ResolvedService, ...] = ()
    warnings: tuple[str, ...] = ()


class StepPerformer:
    """The only one who talks to executors. `activity` has the live line of every attempt that has one."""

    def __init__(self, parts: Parts, supervisor: Supervisor, clock: Callable[[], float] = time.time) -> None:
        self._parts = parts
        self._supervisor = supervisor
        self._clock = clock
        self._steering = Steering(clock)
        self._launching: dict[AttemptKey, _Launching] = {}
        self._facts: dict[AttemptKey, _Facts] = {}
        self._known: frozenset[AttemptKey] = frozenset()
        self._tasks: TaskGroup | None = None
        self._pinning: set[str] = set()
        self.activity: dict[AttemptKey, str] = {}

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve the executors until cancelled. Ready once they have told what they know of earlier attempts."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            known: set[AttemptKey] = set()
            for executor in self._parts.executors.values():
                await tasks.start(executor.run, self._report, name=f"executor {executor.name}")
                known |= await executor.recover(self._active_attempts(executor.name))
            self._known = frozenset(known)
            task_status.started()
            await anyio.sleep_forever()

    def _active_attempts(self, executor: str) -> list[AttemptKey]:
        return [
            AttemptKey(entry.run.id, step.name, step.attempt)
            for entry in self._supervisor.active.values()
            if entry.run.executor == executor
            for step in entry.run.steps.values()
            if step.state.is_active
        ]

    def perform(self, run: Run, plan: Plan, effect: effects.AnyEffect, *, recovered: bool) -> None:
        assert self._tasks is not None
        match effect:
            case effects.PinCodesets():
                if run.id not in self._pinning:
                    self._pinning.add(run.id)
                    self._tasks.start_soon(self._pin, run, plan, name=f"pin {run.id}")
            case effects.LaunchStep(step=step, attempt=attempt):
                key = AttemptKey(run.id, step, attempt)
                if key in self._launching or (recovered and key in self._known):
                    return
                entry = self._launching[key] = _Launching()
                self._tasks.start_soon(self._launch, run, plan, key, entry, recovered, name=f"launch {key}")
            case effects.KillStep(step=step, attempt=attempt, ending=ending):
                key = AttemptKey(run.id, step, attempt)
                self._tasks.start_soon(self._kill, run, key, ending, name=f"kill {key}")
            case effects.FinishRun():
                pass
            case effects.RequestSlot() | effects.ReleaseSlot():
                raise AssertionError("slots are the supervisor's own")

    def recorded(self, key: AttemptKey) -> None:
        assert self._tasks is not None
        self._tasks.start_soon(self._forget, key, name=f"forget {key}")

    async def _forget(self, key: AttemptKey) -> None:
        for executor in self._parts.executors.values():
            try:
                await executor.forget(key)
            except UnavailableError as error:
                log.warning("step.forget_failed", key=str(key), error=str(error))

    async def _pin(self, run: Run, plan: Plan) -> None:
        def note(text: str) -> None:
            self.activity[AttemptKey(run.id, "", 0)] = text
            self._supervisor.touch(run.id)

        try:
            references = codeset_references(run.inputs, plan.workflow)
            event = await self._parts.pinner.pin(run, references, note)
        finally:
            self._pinning.discard(run.id)
            self.activity.pop(AttemptKey(run.id, "", 0), None)
        faults.point("performer.pinned")
        self._supervisor.post(run.id, event)

    async def _launch(self, run: Run, plan: Plan, key: AttemptKey, entry: _Launching, recovered: bool) -> None:
        outcome: Outcome | None = None
        with entry.scope:
            try:
                await self._prepare_and_start(run, plan, key, entry, recovered)
            except FusemldError as error:
                outcome = Outcome(ending=Ending.CANNOT_START, message=str(error))
            except Exception as error:
                log.exception("step.launch_failed", key=str(key))
                outcome = Outcome(ending=Ending.CANNOT_START, message=f"{type(error).__name__}: {error}")
        if entry.scope.cancelled_caught:
            outcome = Outcome(ending=entry.ending or Ending.CANCELLED, message="stopped before it was started")
        del self._launching[key]
        if outcome is not None and not entry.is_over:
            self._report(AttemptFinished(key=key, at=self._clock(), outcome=outcome))

    async def _prepare_and_start(
        self, run: Run, plan: Plan, key: AttemptKey, entry: _Launching, recovered: bool
    ) -> None:
        tries = 0
        while True:
            try:
                start = await self._prepare(run, plan, key, recovered)
                faults.point("performer.prepared")
                entry.handed_over = True
                await start()
                return
            except UnavailableError as error:
                entry.handed_over = False
                tries += 1
                pause_s = backoff_s(tries, 0.5, 30.0)
                self._note(key, f"{error}; trying again in {pause_s:.0f} s")
                await anyio.sleep(pause_s)

    async def _prepare(
        self, run: Run, plan: Plan, key: AttemptKey, recovered: bool
    ) -> Callable[[], Awaitable[None]]:
        """Everything before the point of no return; the result starts the attempt."""
        step = plan.step(key.step)
        executor = self._parts.executors.get(run.executor)
        if executor is None:
            raise StartError(
                f"cannot run step {step.name}: this daemon has no executor {run.executor!r} "
                f"(it has: {', '.join(sorted(self._parts.executors))})"
            )
        access = await self._resolve(run, step, key, executor)
        value = lookup(run, access)
        image = public(step.image, value, "image")
        variables = step_variables(run, step, access, value)
        warnings = [*variables.warnings, *self._checked_inputs(step, image)]
        self._facts[key] = _Facts(services=tuple(a.service for a in access.values()), warnings=tuple(warnings))
        plugin_step = self._parts.plugins.steps.get(repository(image))
        if plugin_step is not None:
            inputs = input_values(step, value)
            context = self._context(
                run, step, key, executor, access, {k: v.text for k, v in inputs.items()}, variables.secrets
            )
            return lambda: self._steer(plugin_step, context)
        launch = Launch(
            key=key,
            image=image,
            command=None if step.command is None else tuple(public(t, value, "command") for t in step.command),
            args=None if step.args is None else tuple(public(t, value, "args") for t in step.args),
            env=variables.env,
            secret_env=variables.secret_env,
            secrets=variables.secrets,
            codesets=await self._codesets(run, step, value),
            outputs=tuple(output.name for output in step.outputs),
            requests={name: public(t, value, "resources") for name, t in step.resources.requests.items()},
            limits={name: public(t, value, "resources") for name, t in step.resources.limits.items()},
            recovered=recovered,
        )
        return lambda: executor.launch(launch)

    async def _steer(self, step: PluginStep, context: Context) -> None:
        assert self._tasks is not None
        self._steering.launch(self._tasks, step, context, self._report)

    async def _resolve(
        self, run: Run, step: Step, key: AttemptKey, executor: Executor
    ) -> dict[str, ServiceAccess]:
        access: dict[str, ServiceAccess] = {}
        if step.extensions:
            await self._parts.extensions_read(lambda text: self._note(key, text))
        for requirement in step.extensions:
            access[requirement.name] = await self._parts.registry.resolve(
                selectors(requirement, run),
                executor=executor.name,
                zone=executor.zone,
                project=run.project,
                user=run.user,
                services=self._parts.services,
                note=lambda text: self._note(key, text),
            )
        return access

    def _checked_inputs(self, step: Step, image: str) -> list[str]:
        claimed = repository(image)
        plugin: PluginStep | None = self._parts.plugins.steps.get(claimed)
        runtime = self._parts.plugins.runtimes.get(claimed)
        owner = plugin or runtime
        return [] if owner is None else check_inputs(step, owner.inputs)

    async def _codesets(self, run: Run, step: Step, value: Lookup) -> tuple[MountedCodeset, ...]:
        mounted = []
        for entry in step.inputs:
            if entry.codeset is None:
                continue
            pinned = await self._pinned(run, public(entry.codeset.name, value, "codeset name"))
            mounted.append(
                MountedCodeset(
                    path=entry.codeset.path,
                    project=pinned.project,
                    name=pinned.name,
                    version=pinned.version,
                    digest=pinned.digest,
                    source=await self._parts.pinner.source(pinned),
                )
            )
        return tuple(mounted)

    async def _pinned(self, run: Run, reference: str) -> PinnedCodeset:
        """What the run pinned; a reference that only an earlier step could name is pinned now, for all steps."""
        pins = run.codesets or {}
        if reference not in pins:
            pinned = await self._parts.pinner.pin_one(reference, project=run.project, user=run.user)
            self._supervisor.post(
                run.id, events.CodesetsPinned(at=self._clock(), codesets={**pins, reference: pinned})
            )
            return pinned
        return pins[reference]

    def _context(
        self,
        run: Run,
        step: Step,
        key: AttemptKey,
        executor: Executor,
        access: Mapping[str, ServiceAccess],
        inputs: Mapping[str, str],
        secrets: frozenset[str],
    ) -> Context:
        pins = {
            entry.name: pinned
            for entry in step.inputs
            if entry.codeset is not None and (pinned := (run.codesets or {}).get(inputs[entry.name])) is not None
        }
        work = self._parts.state / "plugins"
        work.mkdir(mode=0o700, exist_ok=True)
        return Context(
            key=key,
            workflow=run.workflow,
            project=run.project,
            executor=executor.name,
            run_created_at=run.created_at,
            inputs=inputs,
            codesets=pins,
            extensions=access,
            outputs=tuple(output.name for output in step.outputs),
            services=self._parts.services,
            environments=self._parts.environments,
            applications=self._parts.applications,
            folders=self._parts.folders,
            work=work,
            note=lambda text: self._note(key, text),
            step_log=StepLog(self.log_path(key), secrets),
            object_stores=self._parts.plugins.object_stores,
        )

    async def _kill(self, run: Run, key: AttemptKey, ending: Ending) -> None:
        entry = self._launching.get(key)
        if entry is not None and not entry.handed_over:
            entry.ending = ending
            entry.scope.cancel()
            return
        self._steering.kill(key)
        executor = self._parts.executors.get(run.executor)
        tries = 0
        while executor is not None:
            try:
                await executor.kill(key, self._parts.grace_s)
                return
            except UnavailableError as error:
                tries += 1
                log.warning("step.kill_failed", key=str(key), error=str(error))
                await anyio.sleep(backoff_s(tries, 0.5, 30.0))

    def _note(self, key: AttemptKey, text: str) -> None:
        self.activity[key] = text
        self._supervisor.touch(key.run)

    def _report(self, report: AttemptStarted | AttemptFinished) -> None:
        key, at = report.key, report.at
        facts = self._facts.get(key, _Facts())
        match report:
            case AttemptStarted():
                self.activity.pop(key, None)
                event: events.AnyEvent = events.StepStarted(
                    at=report.at,
                    step=key.step,
                    attempt=key.attempt,
                    services=facts.services,
                    warnings=facts.warnings,
                )
            case AttemptFinished(outcome=outcome):
                faults.point("performer.ended")
                if launching := self._launching.get(key):
                    launching.is_over = True
                    launching.scope.cancel()
                self.activity.pop(key, None)
                self._facts.pop(key, None)
                log.info("step.finished", key=str(key), ending=outcome.ending, message=outcome.message)
                event = events.StepFinished(
                    at=at,
                    step=key.step,
                    attempt=key.attempt,
                    outcome=outcome,
                    outputs=dict(report.outputs),
                    services=facts.services,
                    warnings=facts.warnings,
                )
        self._supervisor.post(key.run, event)

    def log_path(self, key: AttemptKey) -> Path:
        """Where the log of the attempt is, whoever runs it."""
        return self._parts.state / "logs" / key.run / f"{key.step}.{key.attempt}.log"
