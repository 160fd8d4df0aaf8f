"""The heart: what an event makes of a run, and what is to be done about it.

Events may come late, repeatedly or not at all. One that no longer fits (an earlier attempt, a final step)
changes nothing; one that can never have happened is a bug and raises with the run's history.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import assert_never

from msgspec.structs import replace

from fusemld.engine.draft import Advance, Draft
from fusemld.engine.effects import KillStep, LaunchStep, PinCodesets, ReleaseSlot
from fusemld.engine.events import (
    AnyEvent,
    CancelRequested,
    ClockMoved,
    CodesetsPinned,
    CodesetsUnavailable,
    DeadlinePassed,
    RetryRequested,
    RunCreated,
    StepAdmitted,
    StepFinished,
    StepStarted,
)
from fusemld.engine.failure import failure
from fusemld.engine.history import history
from fusemld.engine.plan import Plan
from fusemld.engine.retry import again, attempt_reason, describe, duration
from fusemld.engine.values import codeset_references
from fusemld.model.errors import ConflictError, ImpossibleTransitionError, InvalidInputError
from fusemld.model.run import Attempt, Ending, Outcome, Run, RunState, StepRun, StepState, are_long

RUN_BYTES = 512 * 1024 * 1024
"""Of memory, for the long outputs of all steps of a run together: they are there as long as it goes on."""


def advance(run: Run, event: AnyEvent, plan: Plan) -> Advance:
    """Apply one event.

    `changed` names every step that differs afterwards, and those whose deadline needs a new timer although
    they do not differ (a `DeadlinePassed` that came early). Raises `ImpossibleTransitionError`, and
    `ConflictError` for a `RetryRequested` of a run that did not fail and was not cancelled.
    """
    match event:
        case RunCreated():
            return _run_created(run, event, plan)
        case CodesetsPinned():
            return _codesets_pinned(run, event, plan)
        case CodesetsUnavailable():
            return _codesets_unavailable(run, event, plan)
        case CancelRequested():
            return _cancel_requested(run, event, plan)
        case RetryRequested():
            return _retry_requested(run, event, plan)
        case StepAdmitted():
            return _step_admitted(run, event, plan)
        case StepStarted():
            return _step_started(run, event, plan)
        case StepFinished():
            return _step_finished(run, event, plan)
        case DeadlinePassed():
            return _deadline_passed(run, event, plan)
        case ClockMoved():
            return _clock_moved(run, event, plan)
        case _:
            assert_never(event)


def _run_created(run: Run, event: RunCreated, plan: Plan) -> Advance:
    if run.codesets is not None or run.state is not RunState.RUNNING:
        return Advance(run=run)
    draft = Draft(run, plan, event.at)
    _begin(draft)
    return draft.done()


def _begin(draft: Draft) -> None:
    """Start what can be started, in listed order: the codesets must be pinned before anything else."""
    if draft.codesets is None:
        try:
            references = codeset_references(draft.run.inputs, draft.plan.workflow)
        except InvalidInputError as error:
            _give_up(draft, str(error))
            return
        if references:
            draft.effects.append(PinCodesets())
            return
        draft.codesets = {}
    for name in draft.ready():
        draft.queue(name)


def _codesets_pinned(run: Run, event: CodesetsPinned, plan: Plan) -> Advance:
    if run.state is not RunState.RUNNING or run.codesets is not None:
        return Advance(run=run)
    missing = [text for text in codeset_references(run.inputs, plan.workflow) if text not in event.codesets]
    if missing:
        raise _impossible(run, event, f"codesets were pinned without {missing[0]!r}")
    draft = Draft(run, plan, event.at)
    draft.codesets = dict(event.codesets)
    _begin(draft)
    return draft.done()


def _codesets_unavailable(run: Run, event: CodesetsUnavailable, plan: Plan) -> Advance:
    if run.codesets is not None or run.state is not RunState.RUNNING:
        return Advance(run=run)
    draft = Draft(run, plan, event.at)
    _give_up(draft, event.message)
    return draft.done()


def _give_up(draft: Draft, why: str) -> None:
    """Before the first step."""
    draft.message = why
    for name in draft.plan.dag.names:
        if not draft.step(name).state.is_final:
            draft.finish(name, StepState.SKIPPED, why)


def _cancel_requested(run: Run, event: CancelRequested, plan: Plan) -> Advance:
    if run.cancel_requested or run.state is not RunState.RUNNING:
        return Advance(run=run)
    draft = Draft(run, plan, event.at)
    by = f"cancelled by {event.by}" if event.by else "cancelled"
    draft.cancel_requested = True
    draft.message = f"{by}; before that, {run.message}" if run.message else by
    for name in plan.dag.names:
        step = draft.step(name)
        if step.state.is_active:
            _kill(draft, step, Ending.CANCELLED, f"{by}; stopping")
        elif not step.state.is_final:
            if step.state is StepState.QUEUED:
                draft.release(name)
            draft.finish(name, StepState.CANCELLED, by)
    return draft.done()


def _retry_requested(run: Run, event: RetryRequested, plan: Plan) -> Advance:
    if run.state not in (RunState.FAILED, RunState.CANCELLED):
        raise ConflictError(f"cannot retry run {run.id}: it is {run.state}, neither failed nor cancelled")
    draft = Draft(run, plan, event.at)
    draft.cancel_requested = False
    draft.message = ""
    draft.reset(f"retry requested by {event.by}" if event.by else "retry requested")
    _begin(draft)
    return draft.done()


def _step_admitted(run: Run, event: StepAdmitted, plan: Plan) -> Advance:
    step = _step(run, event)
    if step.state.is_active:
        return Advance(run=run)
    if step.state is not StepState.QUEUED:
        return Advance(run=run, effects=(ReleaseSlot(step=step.name),))
    draft = Draft(run, plan, event.at)
    number = step.next_attempt
    reason = attempt_reason(step, plan.step(step.name).retry)
    draft.update(
        step.name,
        state=StepState.STARTING,
        reason="starting",
        since=event.at,
        deadline=event.at + plan.timeout_s(step.name),
        attempts=(*step.attempts, Attempt(number=number, reason=reason, launched_at=event.at)),
        kill_requested=None,
        services=(),
        warnings=(),
    )
    draft.effects.append(LaunchStep(step=step.name, attempt=number))
    return draft.done()


def _step_started(run: Run, event: StepStarted, plan: Plan) -> Advance:
    step = _step(run, event)
    if not _is_current(run, step, event) or step.state is not StepState.STARTING:
        return Advance(run=run)
    draft = Draft(run, plan, event.at)
    draft.update(
        step.name,
        state=StepState.RUNNING,
        reason=step.reason if step.kill_requested else "running",
        since=step.since if step.kill_requested else event.at,
        attempts=(*step.attempts[:-1], replace(step.attempts[-1], started_at=event.at)),
        services=event.services,
        warnings=event.warnings,
    )
    return draft.done()


def _step_finished(run: Run, event: StepFinished, plan: Plan) -> Advance:
    step = _step(run, event)
    if not _is_current(run, step, event):
        return Advance(run=run)
    draft = Draft(run, plan, event.at)
    outcome, outputs = _judge(run, step, event, plan)
    step = draft.update(
        step.name,
        attempts=(*step.attempts[:-1], replace(step.attempts[-1], ended_at=event.at, outcome=outcome)),
        outputs=outputs,
        outputs_file=event.outputs_file if outputs else "",
        services=event.services or step.services,
        warnings=event.warnings or step.warnings,
    )
    draft.release(step.name)
    match outcome.ending:
        case Ending.SUCCEEDED:
            draft.finish(step.name, StepState.SUCCEEDED)
            draft.unblock_dependents(step.name)
        case Ending.CANCELLED if run.cancel_requested:
            draft.finish(step.name, StepState.CANCELLED, run.message)
        case _:
            _again_or_fail(draft, step, outcome)
    return draft.done()


def _judge(run: Run, step: StepRun, event: StepFinished, plan: Plan) -> tuple[Outcome, dict[str, str]]:
    """What the end of the attempt means: one that was told to stop ended because of that, unless it succeeded."""
    outcome = event.outcome
    if outcome.ending is Ending.SUCCEEDED:
        declared = [output.name for output in plan.step(step.name).outputs]
        missing = [name for name in declared if name not in event.outputs]
        if not missing and not are_too_long(run, event.outputs):
            return outcome, {name: event.outputs[name] for name in declared}
        if missing:
            message = f"output {missing[0]!r} was not written"
            outcome = replace(outcome, ending=Ending.OUTPUT_MISSING, message=message)
        else:
            message = f"with its outputs, those of the run need more than the {RUN_BYTES:,} bytes of memory that "
            outcome = replace(outcome, ending=Ending.OUTPUT_REFUSED, message=f"{message}they may have together")
    match step.kill_requested:
        case None:
            return outcome, {}
        case Ending.TIMED_OUT as ending:
            message = f"not over after {duration(plan.timeout_s(step.name))}"
            return replace(outcome, ending=ending, message=message), {}
        case ending:
            return replace(outcome, ending=ending), {}


def are_too_long(run: Run, outputs: Mapping[str, str]) -> bool:
    """Whether all long outputs of the run, with these of one more step, are more than it may keep in memory."""
    if not are_long(outputs):
        return False
    kept = [outputs, *(step.outputs for step in run.steps.values() if are_long(step.outputs))]
    return sum(sys.getsizeof(value) for each in kept for value in each.values()) > RUN_BYTES


def _again_or_fail(draft: Draft, step: StepRun, outcome: Outcome) -> None:
    what = describe(outcome)
    next_try = again(step, outcome, draft.plan.step(step.name).retry, draft.plan.defaults)
    if next_try is None:
        draft.finish(step.name, StepState.FAILED, what)
        draft.message = draft.message or failure(step.name, what)
        draft.skip_dependents(step.name)
        return
    draft.update(
        step.name,
        state=StepState.BACKOFF,
        reason=f"attempt {step.next_attempt} follows, after: {what}",
        since=draft.at,
        deadline=draft.at + next_try.delay_s,
        retries_used=next_try.retries_used,
        losses=next_try.losses,
        kill_requested=None,
    )


def _deadline_passed(run: Run, event: DeadlinePassed, plan: Plan) -> Advance:
    step = _step(run, event)
    if step.deadline is None or step.state.is_final:
        return Advance(run=run)
    if event.at < step.deadline:  # the clock went back: the timer must be set again
        return Advance(run=run, changed=(step.name,))
    draft = Draft(run, plan, event.at)
    match step.state:
        case StepState.BACKOFF:
            draft.queue(step.name)
        case StepState.QUEUED:
            what = f"no slot was free for {duration(event.at - step.since)}"
            draft.release(step.name)
            draft.finish(step.name, StepState.FAILED, what)
            draft.message = draft.message or failure(step.name, what)
            draft.skip_dependents(step.name)
        case StepState.WAITING:
            message = f"the run's codesets were not there after {duration(plan.defaults.pin_timeout_s)}"
            return _codesets_unavailable(run, CodesetsUnavailable(at=event.at, message=message), plan)
        case _ if step.kill_requested is not None:
            _kill(draft, step, step.kill_requested, step.reason)
        case _:
            timeout = duration(plan.timeout_s(step.name))
            _kill(draft, step, Ending.TIMED_OUT, f"timed out after {timeout}; stopping")
    return draft.done()


def _clock_moved(run: Run, event: ClockMoved, plan: Plan) -> Advance:
    """Nothing began in the future: no step waits longer than it was to wait at first, whatever the clock says."""
    draft = Draft(run, plan, event.at)
    for name, step in run.steps.items():
        if step.deadline is not None:
            since = min(step.since + event.by_s, event.at)
            if since != step.since:
                draft.update(name, since=since, deadline=step.deadline + since - step.since)
    return draft.done() if run.state is RunState.RUNNING else Advance(run=run)


def _kill(draft: Draft, step: StepRun, ending: Ending, reason: str) -> None:
    """Tell the attempt to stop, or tell it again: only its reported end ends it."""
    draft.update(
        step.name,
        reason=reason,
        since=step.since if step.kill_requested else draft.at,
        deadline=draft.at + draft.plan.defaults.kill_repeat_s,
        kill_requested=ending,
    )
    draft.effects.append(KillStep(step=step.name, attempt=step.attempt, ending=ending))


def _step(run: Run, event: StepAdmitted | StepStarted | StepFinished | DeadlinePassed) -> StepRun:
    step = run.steps.get(event.step)
    if step is None:
        raise _impossible(run, event, f"there is no step {event.step!r}")
    return step


def _is_current(run: Run, step: StepRun, event: StepStarted | StepFinished) -> bool:
    """Whether the event is about an attempt that is under way. One that was never launched cannot be."""
    if not 1 <= event.attempt <= step.attempt:
        raise _impossible(run, event, f"attempt {event.attempt} of step {step.name!r} was never launched")
    return event.attempt == step.attempt and step.state.is_active


def _impossible(run: Run, event: AnyEvent, why: str) -> ImpossibleTransitionError:
    name = type(event).__name__
    return ImpossibleTransitionError(f"cannot apply {name} to run {run.id}: {why}\n{history(run)}")
