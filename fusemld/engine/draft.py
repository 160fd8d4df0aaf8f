"""The working copy of a run while one event is applied to it."""

from __future__ import annotations

from typing import TypedDict, Unpack

import immutables
import msgspec
from msgspec.structs import replace

from fusemld.engine.effects import AnyEffect, FinishRun, ReleaseSlot, RequestSlot
from fusemld.engine.plan import Plan
from fusemld.engine.values import workflow_outputs
from fusemld.engine.waits import NAMED, unmet_steps, waiting_reason
from fusemld.model.errors import InvalidInputError
from fusemld.model.extension import ResolvedService
from fusemld.model.run import Attempt, Ending, Run, RunState, StepRun, StepState


class Advance(msgspec.Struct, frozen=True, kw_only=True):
    """The run after an event, what to do, and the steps that differ or whose timer is to be set anew."""

    run: Run
    effects: tuple[AnyEffect, ...] = ()
    changed: tuple[str, ...] = ()


class StepFields(TypedDict, total=False):
    state: StepState
    reason: str
    since: float
    deadline: float | None
    attempts: tuple[Attempt, ...]
    retries_used: int
    losses: int
    kill_requested: Ending | None
    outputs: dict[str, str]
    outputs_file: str
    services: tuple[ResolvedService, ...]
    warnings: tuple[str, ...]


class Draft:
    """Changes one run, at the time `at`; `advance` and nothing else holds one, and only during one call.

    Every change of a step's state goes through here, so that the counts and the run's end follow from it.
    """

    def __init__(self, run: Run, plan: Plan, at: float) -> None:
        if run.unfinished is None:
            run = _with_derived(run, plan)
        self.run = run
        self.plan = plan
        self.at = at
        self.effects: list[AnyEffect] = []
        self.codesets = run.codesets
        self.message = run.message
        self.cancel_requested = run.cancel_requested
        self._changed: dict[str, None] = {}
        self._steps = run.steps.mutate()
        self._unmet = run.unmet.mutate()
        self._unfinished = run.unfinished or 0

    def step(self, name: str) -> StepRun:
        return self._steps[name]

    def update(self, name: str, **fields: Unpack[StepFields]) -> StepRun:
        before = self._steps[name]
        step = self._steps[name] = replace(before, **fields)
        self._changed[name] = None
        self._unfinished += before.state.is_final - step.state.is_final
        return step

    def finish(self, name: str, state: StepState, reason: str = "") -> None:
        """The step reached a final state. `reason` says why, where no attempt's outcome does."""
        self.update(name, state=state, reason=reason, since=self.at, deadline=None, kill_requested=None)
        self._unmet.pop(name, None)

    def queue(self, name: str) -> None:
        self.update(
            name,
            state=StepState.QUEUED,
            reason="waiting for a free slot",
            since=self.at,
            deadline=self.at + self.plan.defaults.queue_timeout_s,
        )
        self.effects.append(RequestSlot(step=name))

    def release(self, name: str) -> None:
        self.effects.append(ReleaseSlot(step=name))

    def unblock_dependents(self, name: str) -> None:
        """The step succeeded: those that waited for it alone are queued, in listed order."""
        for dependent in self.plan.dag.dependents[name]:
            unmet = self._unmet.get(dependent)
            if unmet is None:
                continue
            if unmet == 1:
                del self._unmet[dependent]
                self.queue(dependent)
                continue
            self._unmet[dependent] = unmet - 1
            # Renaming them at every step would make a wide fan-in quadratic: exact when few are left.
            if unmet - 1 <= 2 * NAMED or (unmet - 1) & (unmet - 2) == 0:
                self.update(dependent, reason=self._waiting_for(dependent))

    def skip_dependents(self, name: str) -> None:
        """The step did not succeed: none of those that need it, directly or not, will start."""
        pending = [name]
        for needed in pending:
            for dependent in self.plan.dag.dependents[needed]:
                step = self._steps[dependent]
                if step.state is StepState.WAITING:
                    what = "was skipped" if needed is not name else "failed"
                    self.finish(dependent, StepState.SKIPPED, f"needs {needed}, which {what}")
                    pending.append(dependent)

    def ready(self) -> list[str]:
        """The waiting steps that wait for no other step, in listed order."""
        return [
            name
            for name in self.plan.dag.names
            if name not in self._unmet and self._steps[name].state is StepState.WAITING
        ]

    def reset(self, reason: str) -> None:
        """Have every step that did not succeed wait as in the beginning; what was tried stays recorded."""
        names = [name for name in self.plan.dag.names if self._steps[name].state is not StepState.SUCCEEDED]
        unmet: dict[str, int] = {}
        for name in names:
            self.update(
                name,
                state=StepState.WAITING,
                reason=reason,
                since=self.at,
                deadline=self.at + self.plan.defaults.pin_timeout_s,
                retries_used=0,
                losses=0,
                kill_requested=None,
                outputs={},
                outputs_file="",
            )
        for name in names:
            count = sum(1 for _ in unmet_steps(self.plan, self._steps, name))
            if count:
                unmet[name] = count
                self.update(name, reason=waiting_reason(self.plan, self._steps, name, count), deadline=None)
        self._unmet = immutables.Map(unmet).mutate()

    def done(self) -> Advance:
        """The run as it is now; finished if all its steps are."""
        run = replace(
            self.run,
            codesets=self.codesets,
            message=self.message,
            cancel_requested=self.cancel_requested,
            steps=self._steps.finish(),
            unmet=self._unmet.finish(),
            unfinished=self._unfinished,
            state=RunState.RUNNING,
            finished_at=None,
        )
        if self._unfinished == 0:
            run = _finished(run, self.plan, self.at)
            self.effects.append(FinishRun())
        return Advance(run=run, effects=tuple(self.effects), changed=tuple(self._changed))

    def _waiting_for(self, name: str) -> str:
        return waiting_reason(self.plan, self._steps, name, self._unmet[name])


def _finished(run: Run, plan: Plan, at: float) -> Run:
    states = {step.state for step in run.steps.values()}
    if run.cancel_requested and StepState.CANCELLED in states:
        return replace(run, state=RunState.CANCELLED, finished_at=at)
    if states - {StepState.SUCCEEDED}:
        return replace(run, state=RunState.FAILED, finished_at=at)
    try:
        outputs = workflow_outputs(run, plan)
    except InvalidInputError as error:
        return replace(run, state=RunState.FAILED, finished_at=at, message=str(error))
    return replace(run, state=RunState.SUCCEEDED, finished_at=at, message="", outputs=outputs)


def _with_derived(run: Run, plan: Plan) -> Run:
    """The run as it was before it was stored."""
    unmet = {
        name: count
        for name, step in run.steps.items()
        if step.state is StepState.WAITING and (count := sum(1 for _ in unmet_steps(plan, run.steps, name)))
    }
    unfinished = sum(1 for step in run.steps.values() if not step.state.is_final)
    return replace(run, unmet=immutables.Map(unmet), unfinished=unfinished)
