"""Whether a step is tried again after an attempt did not succeed, and when."""

from __future__ import annotations

import msgspec

from fusemld.engine.plan import Defaults
from fusemld.model.backoff import backoff_s
from fusemld.model.run import NOBODYS_FAULT, Outcome, StepRun
from fusemld.model.workflow import Retry


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """There is another attempt after `delay_s`; the counters are those of the step from now on."""

    delay_s: float
    retries_used: int
    losses: int


def again(step: StepRun, outcome: Outcome, retry: Retry | None, defaults: Defaults) -> Again | None:
    """None: the step has failed for good.

    What is nobody's fault does not use up `retry` until the bound is reached; after that it counts like a failure.
    """
    if outcome.ending in NOBODYS_FAULT and step.losses < defaults.max_losses:
        losses = step.losses + 1
        delay_s = backoff_s(losses, defaults.loss_backoff_s, defaults.max_loss_backoff_s)
        return Again(delay_s=delay_s, retries_used=step.retries_used, losses=losses)
    if retry is not None and step.retries_used < retry.limit:
        used = step.retries_used + 1
        delay_s = backoff_s(used, retry.backoff_s, retry.max_backoff_s)
        return Again(delay_s=delay_s, retries_used=used, losses=step.losses)
    return None


def attempt_reason(step: StepRun, retry: Retry | None) -> str:
    """Why the step gets its next attempt."""
    if not step.attempts:
        return "first that is recorded" if step.reserved else "first"
    outcome = step.attempts[-1].outcome
    before = "no end recorded" if outcome is None else describe(outcome)
    if step.retries_used == 0 and step.losses == 0:
        return f"retry requested; before: {before}"
    if outcome is not None and outcome.ending in NOBODYS_FAULT:
        return before
    return f"retry {step.retries_used} of {0 if retry is None else retry.limit}; before: {before}"


def describe(outcome: Outcome) -> str:
    """`program failed: exit status 1`."""
    if outcome.message:
        return f"{outcome.ending}: {outcome.message}"
    return str(outcome.ending) + (f": exit status {outcome.exit_status}" if outcome.exit_status else "")


def duration(seconds: float) -> str:
    """`90s`, `15m`, `2h`, `1d`, as durations are written in workflows; `1.5s` where no unit divides it."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size and seconds % size == 0:
            return f"{int(seconds // size)}{unit}"
    return f"{seconds:.3g}s" if seconds < 60 else f"{seconds:.0f}s"
