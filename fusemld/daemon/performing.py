"""Performs the engine's effects: has attempts prepared, hands them to executors, and tells what came of it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVarTuple, Unpack

import anyio
import anyio.lowlevel
import msgspec
import structlog
from anyio.abc import TaskGroup, TaskStatus

from fusemld.daemon.errands import Errands
from fusemld.daemon.mask import Mask
from fusemld.daemon.patience import patiently
from fusemld.daemon.preparing import Facts, Parts, Prepared, Preparer, Steered, log_path
from fusemld.daemon.steering import Steering
from fusemld.daemon.supervisor import Supervisor
from fusemld.engine import effects, events
from fusemld.engine.advance import are_too_long
from fusemld.engine.plan import Plan
from fusemld.engine.values import codeset_references
from fusemld.hooks.executors import AttemptFinished, AttemptNoted, AttemptStarted, Executor
from fusemld.model import faults
from fusemld.model.errors import FusemldError
from fusemld.model.run import AttemptKey, Ending, Outcome, Run, are_long
from fusemld.store.reads import DamagedRun

log = structlog.get_logger(__name__)

Ts = TypeVarTuple("Ts")

_FORGET_AFTER_S = 0.02
_MESSAGE_LENGTH = 4096
_NOTE_EVERY_S = 5.0
"""How often it is said anew what an executor that is not ready waits for."""


class _Launching:
    """An attempt on its way to its executor. Once `handed_over` it may exist outside, and only the executor's word
    ends it; before that, cancelling `scope` does.

    `is_over`: its end is known while it is still being started (the keeper was killed meanwhile). It must not be
    tried again: once its end is recorded it is forgotten, and would be started a second time.
    """

    __slots__ = ("ending", "handed_over", "is_over", "mask", "scope")

    def __init__(self, *, handed_over: bool) -> None:
        self.scope = anyio.CancelScope()
        self.handed_over = handed_over
        self.is_over = False
        self.ending: Ending | None = None
        self.mask = Mask()


class StepPerformer:
    """The only one who talks to executors. `activity` has the live line of every attempt that has one, `pinning`
    that of every run whose codesets are being fetched; both are masked."""

    def __init__(self, parts: Parts, supervisor: Supervisor, clock: Callable[[], float] = time.time) -> None:
        self._parts = parts
        self._supervisor = supervisor
        self._clock = clock
        self._preparer = Preparer(parts)
        self._steering = Steering(clock)
        self._launching: dict[AttemptKey, _Launching] = {}
        self._killing: set[AttemptKey] = set()
        self._pins: dict[str, anyio.CancelScope] = {}
        self._facts: dict[AttemptKey, Facts] = {}
        """Of attempts that were prepared here and whose end was not reported."""
        self._told_by: dict[AttemptKey, Executor] = {}
        """Of attempts whose end is not recorded yet."""
        self._keeping: set[AttemptKey] = set()
        """Those of them whose outputs are being stored."""
        self._ended: list[AttemptKey] = []
        self._has_ended = anyio.Event()
        self._known: set[AttemptKey] = set()
        self._recovered = {name: anyio.Event() for name in parts.executors}
        self._tasks: TaskGroup | None = None
        self._errands: Errands | None = None
        self.activity: dict[AttemptKey, str] = {}
        self.pinning: dict[str, str] = {}

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve the executors until cancelled. What one of them has to start or stop waits until it has told what
        it knows of earlier attempts; an executor that is out of reach holds up nobody else."""
        async with anyio.create_task_group() as tasks:
            self._tasks, self._errands = tasks, Errands(tasks)
            for executor in self._parts.executors.values():
                tasks.start_soon(self._serve, tasks, executor, name=f"executor {executor.name}")
            task_status.started()
            await self._forget()

    async def _serve(self, tasks: TaskGroup, executor: Executor) -> None:
        report = partial(self._report, by=executor)
        await tasks.start(executor.run, report, name=f"executor {executor.name} at work")
        damaged = {run_id for run_id, entry in self._supervisor.active.items() if _is_damaged(entry.run)}
        earlier = self._active_attempts(executor.name)

        def recover() -> Awaitable[frozenset[AttemptKey]]:
            """Some may have ended since the last try; what is new waits to be launched."""
            active = set(self._active_attempts(executor.name))
            return executor.recover([key for key in earlier if key in active], damaged)

        def note(text: str) -> None:
            log.warning("executor.not_recovered", executor=executor.name, error=text)

        self._known |= await patiently(recover, note)
        self._recovered[executor.name].set()

    def _active_attempts(self, executor: str) -> list[AttemptKey]:
        return [
            AttemptKey(entry.run.id, step.name, step.attempt)
            for entry in self._supervisor.active.values()
            if entry.run.executor == executor and not _is_damaged(entry.run)
            for step in entry.run.steps.values()
            if step.state.is_active
        ]

    # What the supervisor asks for

    def perform(self, run: Run, plan: Plan, effect: effects.AnyEffect, *, recovered: bool) -> None:
        match effect:
            case effects.PinCodesets():
                if run.id not in self._pins:
                    scope = self._pins[run.id] = anyio.CancelScope()
                    self._start("pin", run.id, self._pin, run, plan, scope)
            case effects.LaunchStep(step=step, attempt=attempt):
                key = AttemptKey(run.id, step, attempt)
                if key in self._launching or (recovered and key in self._known):
                    return
                entry = self._launching[key] = _Launching(handed_over=recovered)
                self._start("launch", key, self._launch, run, plan, key, entry, recovered)
            case effects.KillStep(step=step, attempt=attempt, ending=ending):
                key = AttemptKey(run.id, step, attempt)
                if key not in self._killing:
                    self._killing.add(key)
                    self._start("kill", key, self._kill, run, key, ending)
            case effects.FinishRun():
                self.pinning.pop(run.id, None)
                if run.id in self._pins:
                    self._pins.pop(run.id).cancel()
            case effects.RequestSlot() | effects.ReleaseSlot():
                raise AssertionError("slots are the supervisor's own")

    def knows(self, key: AttemptKey) -> bool:
        """Whether somebody here is to report the end of the attempt."""
        return (
            key in self._launching
            or key in self._facts
            or key in self._known
            or key in self._keeping
            or self._steering.is_running(key)
            or self._is_being_recovered(key)
        )

    def holder(self, key: AttemptKey) -> str:
        """Who that is, in words; empty while its executor has not told what it knows of earlier attempts."""
        if self._steering.is_running(key):
            return "the plugin that runs it in this daemon"
        return "" if self._is_being_recovered(key) else f"executor {self._executor_of(key)}"

    async def unknown(self, executor: str) -> frozenset[AttemptKey]:
        """Attempts that the executor was given, and of which it says that it does not know them: their end will
        never be reported. Raises `UnavailableError`."""
        given = [
            key
            for key in self._facts.keys() | self._known
            if key not in self._launching
            and not self._steering.is_running(key)
            and self._executor_of(key) == executor
        ]
        return await self._parts.executors[executor].unknown(given) if given else frozenset()

    @property
    def executors(self) -> Collection[str]:
        return self._parts.executors.keys()

    def _is_being_recovered(self, key: AttemptKey) -> bool:
        event = self._recovered.get(self._executor_of(key))
        return event is not None and not event.is_set()

    def _executor_of(self, key: AttemptKey) -> str:
        entry = self._supervisor.active.get(key.run)
        return "" if entry is None else entry.run.executor

    def pins(self, run: str) -> bool:
        """Whether the codesets of the run are being fetched."""
        return run in self._pins

    def recorded(self, key: AttemptKey) -> None:
        self._known.discard(key)
        self._ended.append(key)
        self._has_ended.set()

    def _start(
        self, what: str, whose: AttemptKey | str, work: Callable[[Unpack[Ts]], Awaitable[None]], *args: *Ts
    ) -> None:
        """A task that stops no other: what goes wrong with one run's work is logged. (A kill is asked for again by
        the engine.)"""
        assert self._errands is not None, "effects are performed while `run` does"

        async def alone() -> None:
            try:
                await work(*args)
            except FusemldError as error:
                log.warning("performer.failed", work=what, key=str(whose), error=str(error))
            except Exception:
                log.exception("performer.failed", work=what, key=str(whose))

        self._errands.start(alone)

    async def _forget(self) -> None:
        """What has ended, with what else ends within a moment: nobody waits for it. What is not forgotten now is
        forgotten by the next daemon."""
        while True:
            await self._has_ended.wait()
            await anyio.sleep(_FORGET_AFTER_S)
            self._has_ended = anyio.Event()
            ended, self._ended = self._ended, []
            for key in ended:
                told_by = self._told_by.pop(key, None)
                for executor in self._parts.executors.values() if told_by is None else (told_by,):
                    try:
                        await executor.forget(key)
                    except FusemldError as error:
                        log.warning("performer.failed", work="forget", key=str(key), error=str(error))
                    except Exception:
                        log.exception("performer.failed", work="forget", key=str(key))

    # Codesets

    async def _pin(self, run: Run, plan: Plan, scope: anyio.CancelScope) -> None:
        def note(text: str) -> None:
            if self._pins.get(run.id) is scope:
                self.pinning[run.id] = text
                self._supervisor.touch(run.id)

        event: events.CodesetsPinned | events.CodesetsUnavailable
        with scope:
            try:
                references = codeset_references(run.inputs, plan.workflow)
                event = await self._parts.pinner.pin(run, references, note)
            except Exception as error:
                log.exception("run.pinning_failed", run=run.id)
                message = f"cannot pin the codesets: {type(error).__name__}: {error}"
                event = events.CodesetsUnavailable(at=self._clock(), message=message)
        if self._pins.get(run.id) is scope:
            del self._pins[run.id]
            self.pinning.pop(run.id, None)
        if not scope.cancel_called:
            faults.point("performer.pinned")
            self._supervisor.post(run.id, event)

    # Attempts

    async def _launch(self, run: Run, plan: Plan, key: AttemptKey, entry: _Launching, recovered: bool) -> None:
        message: str | None = None
        with entry.scope:
            await self._until_recovered(run.executor, key)
            if recovered and key in self._known:
                del self._launching[key]
                return
            entry.handed_over = False
            try:
                await self._prepare_and_start(run, plan, key, entry, recovered)
            except FusemldError as error:
                message = entry.mask(str(error))
            except Exception as error:  # noqa: BLE001 - logged, but not as it is: it may hold a secret
                log.error("step.launch_failed", key=str(key), traceback=entry.mask(traceback.format_exc()))
                message = entry.mask(f"{type(error).__name__}: {error}")
        del self._launching[key]
        outcome: Outcome | None = None
        if entry.scope.cancelled_caught:
            outcome = Outcome(ending=entry.ending or Ending.CANCELLED, message="stopped before it was started")
        elif message is not None:
            outcome = Outcome(ending=Ending.CANNOT_START, message=message)
        if outcome is not None and not entry.is_over:
            self._report(AttemptFinished(key=key, at=self._clock(), outcome=outcome))

    async def _prepare_and_start(
        self, run: Run, plan: Plan, key: AttemptKey, entry: _Launching, recovered: bool
    ) -> None:
        def note(text: str) -> None:
            self._note(key, entry.mask(text))

        def prepare() -> Awaitable[Prepared]:
            return self._preparer.prepare(run, plan, key, note=note, mask=entry.mask, recovered=recovered)

        prepared = await patiently(prepare, note)
        self._facts[key] = prepared.facts
        faults.point("performer.prepared")
        # A kill that came until now is obeyed here; one that comes later goes to whoever has the attempt then.
        await anyio.lowlevel.checkpoint_if_cancelled()
        entry.handed_over = True
        work = prepared.work
        if isinstance(work, Steered):
            assert self._tasks is not None
            self._steering.launch(self._tasks, work.step, work.context, self._report)
        else:
            await patiently(lambda: prepared.executor.launch(work), note)

    async def _kill(self, run: Run, key: AttemptKey, ending: Ending) -> None:
        try:
            entry = self._launching.get(key)
            executor = self._parts.executors.get(run.executor)
            if entry is None or entry.handed_over:
                await self._until_recovered(run.executor, key)
                entry = self._launching.get(key)
            if entry is not None and not entry.handed_over:
                entry.ending = ending
                entry.scope.cancel()
            elif self._steering.is_running(key):
                self._steering.kill(key)
            elif executor is not None:
                await patiently(
                    lambda: executor.kill(key, self._parts.grace_s),
                    lambda text: log.warning("step.kill_failed", key=str(key), error=text),
                )
        finally:
            self._killing.discard(key)

    async def _until_recovered(self, executor: str, key: AttemptKey) -> None:
        """Before that nobody can tell what an earlier daemon has left there."""
        event = self._recovered.get(executor)
        while event is not None and not event.is_set():
            condition = self._parts.executors[executor].condition()
            self._note(key, f"waiting for the executor {executor}: {condition.message}")
            with anyio.move_on_after(_NOTE_EVERY_S):
                await event.wait()

    def _note(self, key: AttemptKey, text: str) -> None:
        """Of an attempt that is over nothing is shown any more, whoever goes on talking."""
        if key in self._launching or self._steering.is_running(key):
            self._show(key, text)

    def _show(self, key: AttemptKey, text: str) -> None:
        if text:
            self.activity[key] = _shortened(text)
        else:
            self.activity.pop(key, None)
        self._supervisor.touch(key.run)

    def _report(
        self, report: AttemptStarted | AttemptNoted | AttemptFinished, *, by: Executor | None = None
    ) -> None:
        if isinstance(report, AttemptNoted):
            self._show(report.key, report.text)
            return
        key, at = report.key, report.at
        facts = self._facts.get(key, Facts())
        match report:
            case AttemptStarted():
                self.activity.pop(key, None)
                event: events.AnyEvent = events.StepStarted(
                    at=at, step=key.step, attempt=key.attempt, services=facts.services, warnings=facts.warnings
                )
            case AttemptFinished(outcome=outcome):
                faults.point("performer.ended")
                if len(outcome.message) > _MESSAGE_LENGTH:
                    outcome = msgspec.structs.replace(outcome, message=_shortened(outcome.message))
                if (entry := self._launching.get(key)) is not None:
                    entry.is_over = True
                    entry.scope.cancel()
                self.activity.pop(key, None)
                self._facts.pop(key, None)
                if by is not None:
                    self._told_by[key] = by
                if key in self._keeping:
                    return
                tell = log.debug if outcome.ending is Ending.SUCCEEDED else log.info
                tell("step.finished", key=str(key), ending=outcome.ending, message=outcome.message)
                event = events.StepFinished(
                    at=at,
                    step=key.step,
                    attempt=key.attempt,
                    outcome=outcome,
                    outputs=dict(report.outputs),
                    services=facts.services,
                    warnings=facts.warnings,
                )
                if outcome.ending is Ending.SUCCEEDED and are_long(report.outputs):
                    self._keeping.add(key)
                    self._start("keep", key, self._keep, key, event)
                    return
        self._supervisor.post(key.run, event)

    async def _keep(self, key: AttemptKey, event: events.StepFinished) -> None:
        """Long outputs are stored before the engine hears of them: nobody waits for that but their own run."""

        def note(text: str) -> None:
            log.warning("step.outputs_not_stored", key=str(key), error=text)
            self._show(key, text)

        try:
            outputs = self._declared(key, event.outputs)
            if outputs is not None:
                file = await patiently(lambda: self._parts.keep_outputs(key.run, outputs), note)
                event = msgspec.structs.replace(event, outputs=outputs, outputs_file=file)
        except Exception:
            # A bug, or what does not pass by itself: then they go the way of short ones.
            log.exception("step.outputs_not_stored", key=str(key))
        finally:
            self._keeping.discard(key)
            self.activity.pop(key, None)
        self._supervisor.post(key.run, event)

    def _declared(self, key: AttemptKey, outputs: Mapping[str, str]) -> dict[str, str] | None:
        """Those that count; None where none does: one is missing, they are too long, or nobody knows the run."""
        entry = self._supervisor.active.get(key.run)
        names = [] if entry is None or entry.plan is None else entry.plan.step(key.step).outputs
        declared = {output.name: outputs[output.name] for output in names if output.name in outputs}
        if entry is None or not declared or len(declared) < len(names) or are_too_long(entry.run, declared):
            return None
        return declared

    def log_path(self, key: AttemptKey) -> Path:
        """Where the log of the attempt is, whoever runs it."""
        return log_path(self._parts.state, key)


def _shortened(text: str) -> str:
    """Messages name what they are about, and that may be as long as a value can be."""
    half = _MESSAGE_LENGTH // 2
    return text if len(text) <= _MESSAGE_LENGTH else f"{text[:half]} … {text[-half:]}"


def _is_damaged(run: Run) -> bool:
    """Which of its attempts there are is not known."""
    return isinstance(run, DamagedRun)
