from __future__ import annotations

import pytest

from fusemld.engine.plan import Defaults
from fusemld.engine.retry import again, describe, duration
from fusemld.model.run import NOBODYS_FAULT, Ending, Outcome, StepRun
from fusemld.model.workflow import Retry

LOST = Outcome(ending=Ending.LOST)


def test_backoff_after_losses_grows_up_to_its_own_maximum() -> None:
    defaults = Defaults(max_losses=10, loss_backoff_s=1.0, max_loss_backoff_s=5.0)

    found = [again(StepRun(name="a", losses=losses), LOST, None, defaults) for losses in range(5)]

    assert [next_try.delay_s for next_try in found if next_try] == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_thousand_retries_do_not_overflow() -> None:
    retry = Retry(limit=100_000, backoff_s=10.0, max_backoff_s=600.0)
    outcome = Outcome(ending=Ending.PROGRAM_FAILED)

    next_try = again(StepRun(name="a", retries_used=99_999), outcome, retry, Defaults())

    assert next_try is not None
    assert next_try.delay_s == 600.0


@pytest.mark.parametrize("ending", [ending for ending in Ending if ending not in NOBODYS_FAULT])
def test_without_retry_every_other_ending_is_for_good(ending: Ending) -> None:
    assert again(StepRun(name="a"), Outcome(ending=ending), None, Defaults()) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(90, "90s"), (900, "15m"), (7200, "2h"), (86400, "1d"), (1.5, "1.5s"), (0.0, "0s"), (61, "61s")],
)
def test_durations_read_as_in_workflows(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_outcome_without_a_message_tells_its_exit_status() -> None:
    assert describe(Outcome(ending=Ending.PROGRAM_FAILED, exit_status=3)) == "program failed: exit status 3"
    assert describe(Outcome(ending=Ending.OUT_OF_MEMORY)) == "out of memory"
