"""A run's history in a few lines, for the errors that should never be seen."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from fusemld.model.run import Attempt, Run, StepRun

_SHOWN = 20


def history(run: Run) -> str:
    """The run's state, how many steps are in which, and the attempts of those that had any, the latest first."""
    counts = Counter(step.state.value for step in run.steps.values())
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    cancel = ", cancel requested" if run.cancel_requested else ""
    lines = [f"run {run.id} of {run.workflow}, created {run.created_at:.3f}, {run.state}{cancel}: {states}"]
    tried = [step for step in run.steps.values() if step.attempts]
    tried.sort(key=lambda step: step.attempts[-1].launched_at, reverse=True)
    lines += [f"  {_step(step)}" for step in islice(tried, _SHOWN)]
    if len(tried) > _SHOWN:
        lines.append(f"  and {len(tried) - _SHOWN} more")
    return "\n".join(lines)


def _step(step: StepRun) -> str:
    attempts = "; ".join(_attempt(attempt) for attempt in step.attempts[-3:])
    return f"{step.name} is {step.state} since {step.since:.3f}: {attempts}"


def _attempt(attempt: Attempt) -> str:
    times = [f"launched {attempt.launched_at:.3f}"]
    times += [] if attempt.started_at is None else [f"started {attempt.started_at:.3f}"]
    times += [] if attempt.ended_at is None else [f"ended {attempt.ended_at:.3f}"]
    ending = "" if attempt.outcome is None else f" ({attempt.outcome.ending})"
    return f"attempt {attempt.number} {', '.join(times)}{ending}"
