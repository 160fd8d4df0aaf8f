from __future__ import annotations

from msgspec.structs import replace

from fusemld.api import views
from fusemld.cli import tables
from fusemld.cli.progress import changes, ending
from fusemld.model.run import RunState, StepState
from tests.api.memory import run_view, step_view


def test_a_step_in_backoff_is_one_line_that_stays_true() -> None:
    due = views.moment(1600.0)
    waiting = replace(
        step_view("s0", StepState.BACKOFF, reason="attempt 2 follows, after: out of memory"), deadline=due
    )
    before = run_view("r1", state=RunState.RUNNING, steps=(waiting, step_view("s1", StepState.STARTING)))
    after = replace(before, steps=(waiting, step_view("s1", StepState.RUNNING)))

    words = f"s0: backoff: at {tables.clock(due)} attempt 2 follows, after: out of memory"
    assert list(changes(None, before))[1:] == [words, "s1: starting"]
    assert list(changes(before, after)) == ["s1: running"]


def test_the_end_leads_to_the_log_of_the_step_that_failed_first() -> None:
    steps = (step_view("a", StepState.FAILED), step_view("h", StepState.FAILED))
    run = replace(run_view("r1", state=RunState.FAILED, steps=steps), failed_step="h")

    *_, last = ending(run)

    assert last == "see: fuseml logs r1 h; go on from there with: fuseml retry r1"
