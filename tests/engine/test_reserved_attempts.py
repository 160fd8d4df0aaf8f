"""Numbers of attempts that may have been made although nobody knows of them."""

from __future__ import annotations

import msgspec
import pytest

from fusemld.engine.retry import attempt_reason
from fusemld.model.run import Attempt, Ending, Outcome, StepRun

FAILED = Attempt(
    number=2, reason="first", launched_at=1.0, outcome=Outcome(ending=Ending.LOST, message="restored")
)


@pytest.mark.parametrize(
    ("attempts", "reserved", "number"),
    [((), 0, 1), ((FAILED,), 0, 3), ((), 1000, 1001), ((FAILED,), 1000, 1001), ((FAILED,), 1, 3)],
)
def test_no_number_is_given_that_may_have_been_given(
    attempts: tuple[Attempt, ...], reserved: int, number: int
) -> None:
    assert StepRun(name="a", attempts=attempts, reserved=reserved).next_attempt == number


def test_an_attempt_that_is_the_first_that_is_known_says_so() -> None:
    step = StepRun(name="a", reserved=1000)

    assert attempt_reason(step, None) == "first that is recorded"
    assert attempt_reason(msgspec.structs.replace(step, reserved=0), None) == "first"
    assert attempt_reason(msgspec.structs.replace(step, attempts=(FAILED,)), None) == (
        "retry requested; before: lost: restored"
    )
