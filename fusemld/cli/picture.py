"""The progress of a run as a picture for terminals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from fusemld.api import views
from fusemld.cli import tables
from fusemld.cli.commands.runs import took, what
from fusemld.model.run import RunState, StepState


def picture(run: views.RunView) -> RenderableType:
    """The steps with their durations, which grow while it is shown, and what each is doing.

    While the run goes on the picture is never higher than the terminal, because what has scrolled away cannot be
    drawn over. Where there is not room for all, the steps that matter most have a line each; the rest is counted.
    """
    return _Picture(run=run)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    run: views.RunView

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        run, room = self.run, options.size.height
        whole = Group(_head(run), _grid(run, run.steps))
        if run.state is RunState.RUNNING and (
            len(run.steps) >= room or len(console.render_lines(whole, options, pad=False)) > room
        ):
            yield from _fitted(run, room)
        else:
            yield whole


def _fitted(run: views.RunView, room: int) -> Iterator[RenderableType]:
    head = _head(run)
    head.no_wrap, head.overflow = True, "ellipsis"
    yield head
    if len(run.steps) < room:
        yield _grid(run, run.steps, is_short=True)
        return
    shown = _that_matter(run.steps, max(room - 2, 0))
    left_out = Counter(step.state for place, step in enumerate(run.steps) if place not in shown)
    if shown:
        yield _grid(run, [run.steps[place] for place in shown], is_short=True)
    if room > 1:
        states = ", ".join(f"{left_out[state]} {state}" for state in _MARKS if state in left_out)
        more = tables.count(left_out.total(), "more step")
        yield Text(f"… and {more}: {states}", style="dim", no_wrap=True, overflow="ellipsis")


def _that_matter(steps: Sequence[views.StepView], count: int) -> list[int]:
    """Their places in listed order; of those that are over the last, of those to come the first."""

    def rank(place: int) -> tuple[int, int]:
        state = steps[place].state
        return _IMPORTANT.index(state), -place if state.is_final else place

    return sorted(sorted(range(len(steps)), key=rank)[:count])


def _head(run: views.RunView) -> Text:
    mark, style = _RUN_STYLES[run.state]
    head = Text.assemble((run.workflow, "bold"), "  ", (run.id, "dim"), "  ", (mark, style), "  ")
    head.append(tables.spent(run.created_at, run.finished_at), "dim")
    return head


def _grid(run: views.RunView, steps: Sequence[views.StepView], *, is_short: bool = False) -> Table:
    """A line for each step, where `is_short`; otherwise its words may take several."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=1)
    # the columns keep their places when other steps are shown
    grid.add_column(no_wrap=True, min_width=min(max((len(step.name) for step in run.steps), default=0), _NAMES))
    grid.add_column(justify="right", min_width=6)
    grid.add_column(no_wrap=is_short, overflow="ellipsis" if is_short else "fold")
    for step in steps:
        mark, style = _MARKS[step.state]
        sign: RenderableType = Text(mark, style=style)
        if step.state.is_active:
            sign = _SPINNERS.setdefault(f"{run.id}/{step.name}", Spinner("dots", style=style))
        text = Text(_words(step), style="dim" if step.state in _QUIET else "")
        grid.add_row(sign, Text(step.name, style=style), took(step), text)
    return grid


def _words(step: views.StepView) -> str:
    words = tables.printable(what(step))
    if step.state.is_final:
        return words
    if step.attempts and step.attempts[-1].number > 1:
        words = f"{words} (attempt {step.attempts[-1].number})"
    return words or step.state


_NAMES = 24
"""Longer names make room for others that are not."""

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

_IMPORTANT = (
    StepState.RUNNING,
    StepState.STARTING,
    StepState.BACKOFF,
    StepState.FAILED,
    StepState.QUEUED,
    StepState.WAITING,
    StepState.CANCELLED,
    StepState.SUCCEEDED,
    StepState.SKIPPED,
)
"""Which steps are shown where there is not room for all."""

_RUN_STYLES = {
    RunState.RUNNING: ("running", "cyan"),
    RunState.SUCCEEDED: ("succeeded", "bold green"),
    RunState.FAILED: ("failed", "bold red"),
    RunState.CANCELLED: ("cancelled", "bold yellow"),
}

_SPINNERS: dict[str, RenderableType] = {}
"""A spinner keeps its own time: a new one at every frame would not turn."""
