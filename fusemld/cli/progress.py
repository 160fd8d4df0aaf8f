"""The progress of a run in words: a line for every change, and a picture for terminals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fusemld.api import views
from fusemld.cli import tables
from fusemld.cli.commands.runs import what
from fusemld.model.run import RunState, StepState

if TYPE_CHECKING:
    from rich.console import RenderableType


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
    failed = [step for step in run.steps if step.state is StepState.FAILED]
    for step in failed:
        tail = step.attempts[-1].tail if step.attempts else ""
        yield from tables.indented(tail, f"{step.name} | ").splitlines()
    for step in failed[:1]:
        yield f"see: fuseml logs {run.id} {step.name}; go on from there with: fuseml retry {run.id}"


def picture(run: views.RunView) -> RenderableType:
    """The steps with their durations, which grow while it is shown, and what each is doing."""
    from rich.console import Group
    from rich.spinner import Spinner
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=1)
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", min_width=6)
    grid.add_column(overflow="fold")
    for step in run.steps:
        mark, style = _MARKS[step.state]
        sign: RenderableType = Text(mark, style=style)
        if step.state.is_active:
            sign = _SPINNERS.setdefault(f"{run.id}/{step.name}", Spinner("dots", style=style))
        text = Text(_words(step), style="dim" if step.state in _QUIET else "")
        grid.add_row(sign, Text(step.name, style=style), tables.spent(step.started_at, step.finished_at), text)
    mark, style = _RUN_STYLES[run.state]
    head = Text.assemble((run.workflow, "bold"), "  ", (run.id, "dim"), "  ", (mark, style), "  ")
    head.append(tables.spent(run.created_at, run.finished_at), "dim")
    return Group(head, grid)


def _shown(step: views.StepView) -> str:
    parts: list[str] = [step.state]
    if step.attempts and step.attempts[-1].number > 1 and not step.state.is_final:
        parts.append(f"(attempt {step.attempts[-1].number})")
    if step.state.is_final and step.duration_s is not None:
        parts.append(f"after {tables.duration(step.duration_s)}")
    words = tables.printable(what(step))
    return " ".join(parts) + (f": {words}" if words and words != step.state else "")


def _words(step: views.StepView) -> str:
    words = tables.printable(what(step))
    if step.state.is_final:
        return words
    if step.attempts and step.attempts[-1].number > 1:
        words = f"{words} (attempt {step.attempts[-1].number})"
    return words or step.state


_QUIET = frozenset({StepState.WAITING, StepState.QUEUED, StepState.SKIPPED})

_MARKS = {
    StepState.WAITING: ("·", "dim"),
    StepState.QUEUED: ("·", "yellow"),
    StepState.STARTING: (">", "cyan"),
    StepState.RUNNING: (">", "cyan"),
    StepState.BACKOFF: ("↻", "yellow"),
    StepState.SUCCEEDED: ("✓", "green"),
    StepState.FAILED: ("✗", "red"),
    StepState.CANCELLED: ("✗", "yellow"),
    StepState.SKIPPED: ("-", "dim"),
}

_RUN_STYLES = {
    RunState.RUNNING: ("running", "cyan"),
    RunState.SUCCEEDED: ("succeeded", "bold green"),
    RunState.FAILED: ("failed", "bold red"),
    RunState.CANCELLED: ("cancelled", "bold yellow"),
}

_SPINNERS: dict[str, RenderableType] = {}
"""A spinner keeps its own time: a new one at every frame would not turn."""
