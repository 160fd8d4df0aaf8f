from __future__ import annotations

import pytest

from fusemld.api.views import AttemptView, StepView, moment
from fusemld.cli import tables
from fusemld.cli.commands.runs import took
from fusemld.model.run import StepState

OVER = AttemptView(number=1, reason="first", launched_at=moment(100.0), ended_at=moment(102.0), duration_s=2.0)
UNDER_WAY = AttemptView(number=2, reason="retry requested", launched_at=moment(900.0))


@pytest.mark.parametrize(
    ("state", "attempts", "duration_s", "shown"),
    [
        (StepState.WAITING, (), None, ""),
        (StepState.RUNNING, (UNDER_WAY,), None, "1m40s"),
        (StepState.BACKOFF, (OVER,), None, "2.0s"),
        (StepState.RUNNING, (OVER, UNDER_WAY), None, "1m42s"),
        (StepState.FAILED, (OVER,), 2.0, "2.0s"),
        (StepState.SKIPPED, (), None, ""),
    ],
)
def test_a_step_has_taken_what_its_attempts_have_and_grows_only_while_one_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
    state: StepState,
    attempts: tuple[AttemptView, ...],
    duration_s: float | None,
    shown: str,
) -> None:
    monkeypatch.setattr(tables, "seconds_since", lambda time: 1000.0 - time.timestamp())

    assert took(StepView(name="s", state=state, attempts=attempts, duration_s=duration_s)) == shown
