"""Why a run is in its state: the chain from the run to what it waits for, until when, and what happens then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from fusemld.api import views
from fusemld.api.present import NO_ACTIVITY, in_order, moment_or_none, now, readable
from fusemld.engine.failure import first_failed
from fusemld.engine.plan import Plan
from fusemld.engine.waits import NAMED, unmet_steps
from fusemld.model.run import Attempt, Ending, Run, RunState, StepRun, StepState

LEFT_OUT = "…"
"""Stands for the middle of a long chain."""
_SHOWN = 3
"""How many steps of a long chain come before its middle."""


def why_view(
    run: Run,
    plan: Plan | None,
    activity: Mapping[str, str] = NO_ACTIVITY,
    *,
    codesets: Sequence[str] = (),
    trouble: Sequence[str] = (),
) -> views.WhyView:
    """`plan` is that of the workflow the run started with, `activity` maps steps to their live line, `codesets`
    are the references that the run must pin before anything starts, `trouble` is what is wrong besides."""
    steps = {step.name: step for step in plan.workflow.steps} if plan else {}
    ordered = list(in_order(run, steps))
    behind = [step for step in ordered if step.state is not StepState.SUCCEEDED]
    chains = _chains(run, plan)
    commands = list(_commands(run, behind))
    headline = trouble[0] if trouble else now(run, ordered, activity) or run.state
    return views.WhyView(
        run=run.id,
        workflow=run.workflow,
        state=run.state,
        headline=f"run {run.id} of {run.workflow}: {readable(headline)}",
        trouble=tuple(readable(text) for text in trouble),
        items=()
        if run.state is RunState.SUCCEEDED
        else tuple(
            _item(run, step, activity.get(step.name, ""), chains.get(step.name, ()), codesets, plan)
            for step in behind
        ),
        next=tuple(commands),
    )


def _commands(run: Run, behind: Sequence[StepRun]) -> Iterator[str]:
    failed = first_failed(run, behind)
    if failed is not None and any(attempt.started_at is not None for attempt in failed.attempts):
        yield f"fuseml logs {run.id} {failed.name}"
    match run.state:
        case RunState.FAILED | RunState.CANCELLED:
            yield f"fuseml retry {run.id}"
        case RunState.RUNNING:
            yield f"fuseml watch {run.id}"
            yield f"fuseml cancel {run.id}"
        case RunState.SUCCEEDED:
            pass


def _item(
    run: Run,
    step: StepRun,
    activity: str,
    chain: tuple[str, ...],
    codesets: Sequence[str],
    plan: Plan | None,
) -> views.WhyItem:
    last = step.attempts[-1] if step.attempts else None
    outcome = last.outcome if last is not None and step.state.is_final else None
    explained = outcome if outcome is not None and outcome.ending is not Ending.SUCCEEDED else None
    reason = step.reason if explained is None else explained.message or explained.ending
    if step.state is StepState.WAITING and run.codesets is None and codesets and not chain:
        reason = f"{reason}: {', '.join(codesets)}"
    return views.WhyItem(
        step=step.name,
        state=step.state,
        reason=readable(reason),
        activity="" if step.state.is_final else activity,
        waits_for=chain,
        since=moment_or_none(step.since or None),
        deadline=None if step.state.is_final else moment_or_none(step.deadline),
        then="" if step.state.is_final else _then(step, tuple(islice(_awaited(run, plan, step.name), NAMED + 1))),
        attempt=step.attempt,
        attempt_reason=readable(_attempt_reason(step, last)),
        tail=readable(explained.tail) if explained is not None else "",
    )


def _attempt_reason(step: StepRun, last: Attempt | None) -> str:
    """Why there is another attempt than the first, of a step that has one under way."""
    return last.reason if last is not None and last.number > 1 and step.state.is_active else ""


def _then(step: StepRun, awaited: tuple[str, ...]) -> str:
    """What happens at the deadline; what ends the waiting of a step that has none. Of the steps that it waits for
    as many as are named and one more suffice."""
    match step.state:
        case StepState.WAITING if len(awaited) == 1:
            return f"it starts after {awaited[0]}, or is skipped if that does not succeed"
        case StepState.WAITING if awaited:
            *most, last = awaited if len(awaited) <= NAMED else (*awaited[:NAMED], "the others")
            return f"it starts after {', '.join(most)} and {last}, or is skipped if one of them does not succeed"
        case StepState.WAITING:
            return "the run fails if its codesets are not there by then"
        case StepState.QUEUED:
            return "it fails if no slot was free by then"
        case StepState.BACKOFF:
            return f"attempt {step.next_attempt} starts"
        case _ if step.kill_requested is not None:
            return "it is told to stop again"
        case _:
            return "it is stopped if it is not over by then"


def _chains(run: Run, plan: Plan | None) -> dict[str, tuple[str, ...]]:
    """For every waiting step the steps from the first one that it waits for down to one that waits for none."""
    if plan is None:
        return {}
    chains: dict[str, tuple[str, ...]] = {}
    for name in plan.dag.names:
        path: list[str] = []
        at: str | None = name
        while at is not None and at not in chains:
            path.append(at)
            at = next(_awaited(run, plan, at), None)
        for step in reversed(path):
            below = next(_awaited(run, plan, step), None)
            chains[step] = () if below is None else _shortened((below, *chains[below]))
    return chains


def _awaited(run: Run, plan: Plan | None, name: str) -> Iterator[str]:
    """The steps that a waiting one waits for and that are not over, in listed order."""
    if plan is None or run.state is not RunState.RUNNING or run.steps[name].state is not StepState.WAITING:
        return
    for other in unmet_steps(plan, run.steps, name):
        if not run.steps[other].state.is_final:
            yield other


def _shortened(chain: tuple[str, ...]) -> tuple[str, ...]:
    if len(chain) <= _SHOWN + 1:
        return chain
    return (*chain[:_SHOWN], LEFT_OUT, chain[-1])
