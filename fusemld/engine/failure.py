"""Which of a run's failed steps it failed of, in words and to be found again by them."""

from __future__ import annotations

from collections.abc import Iterable

from fusemld.model.run import Run, StepRun, StepState


def failure(step: str, what: str) -> str:
    """The message of a run whose first step to fail was this one."""
    return f"step {step} failed: {what}"


def first_failed(run: Run, steps: Iterable[StepRun]) -> StepRun | None:
    """Of the failed steps the one that the run's message names; where it names none, the earliest one."""
    failed = [step for step in steps if step.state is StepState.FAILED]
    named = [(place, step) for step in failed if (place := run.message.find(failure(step.name, ""))) >= 0]
    if named:
        return min(named, key=lambda found: found[0])[1]
    return min(failed, key=lambda step: step.since, default=None)
