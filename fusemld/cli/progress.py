"""The progress of a run in words: a line for every change, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator

from fusemld.api import views
from fusemld.cli import tables
from fusemld.cli.commands.runs import what
from fusemld.model.run import StepState


def changes(before: views.RunView | None, now: views.RunView) -> Iterator[str]:
    """A line for every step that is not as it was, without a time."""
    if before is None:
        yield f"run {now.id} of {now.workflow}: {now.state}"
    known = {step.name: _shown(step) for step in before.steps} if before else {}
    for step in now.steps:
        shown = _shown(step)
        if known.get(step.name) != shown:
            yield f"{step.name}: {shown}"


def ending(run: views.RunView) -> Iterator[str]:
    """How a run ended: its outputs, or the last lines of what failed and what to type next."""
    took = tables.spent(run.created_at, run.finished_at)
    yield f"run {run.id} {run.state} after {took}" + (f": {tables.printable(run.message)}" if run.message else "")
    for name, value in run.outputs.items():
        yield f"output {name} = {tables.printable(value)}"
    for step in run.steps:
        if step.state is not StepState.FAILED:
            continue
        tail = step.attempts[-1].tail if step.attempts else ""
        yield from tables.indented(tail, f"{step.name} | ").splitlines()
    if run.failed_step:
        yield f"see: fuseml logs {run.id} {run.failed_step}; go on from there with: fuseml retry {run.id}"


def _at(time: views.Time) -> str:
    return f"at {tables.clock(time)}"


def _shown(step: views.StepView) -> str:
    parts: list[str] = [step.state]
    if step.attempts and step.attempts[-1].number > 1 and not step.state.is_final:
        parts.append(f"(attempt {step.attempts[-1].number})")
    if step.state.is_final and step.duration_s is not None:
        parts.append(f"after {tables.duration(step.duration_s)}")
    words = tables.printable(what(step, _at))
    return " ".join(parts) + (f": {words}" if words and words != step.state else "")
