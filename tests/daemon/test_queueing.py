from __future__ import annotations

import pytest

from fusemld.daemon.queueing import holdup, place
from fusemld.engine.admission import Admission


@pytest.mark.parametrize(
    ("steps", "per_workflow", "held", "words"),
    [
        (1, None, 1, "the only slot is taken (limits.steps = 1)"),
        (2, None, 2, "all 2 slots are taken (limits.steps = 2)"),
        (2, None, 3, "3 slots are taken (limits.steps = 2)"),
        (9, 1, 1, "the only slot of workflow w is taken (limits.steps_per_workflow = 1)"),
        (9, 2, 2, "all 2 slots of workflow w are taken (limits.steps_per_workflow = 2)"),
        (1, 1, 2, "2 slots of workflow w are taken (limits.steps_per_workflow = 1)"),
        (9, 9, 1, ""),
    ],
)
def test_what_keeps_a_step_from_a_slot_names_the_setting(
    steps: int, per_workflow: int | None, held: int, words: str
) -> None:
    admission = Admission(steps, per_workflow)
    for number in range(held):
        admission.occupy(("before", f"s{number}"), "w")
    admission.request(("r", "s"), "w")

    assert holdup(admission, ("r", "s")) == words


def test_the_steps_before_it_are_counted_in_words() -> None:
    admission = Admission(1)
    keys = [("r", f"s{number}") for number in range(4)]
    for key in keys:
        admission.request(key, "w")

    assert admission.admit() == keys[:1]
    full = "; the only slot is taken (limits.steps = 1)"
    assert [place(admission, key) for key in keys] == [
        None,
        f"next in line{full}",
        f"1 step before it{full}",
        f"2 steps before it{full}",
    ]
    admission.set_limits()
    assert place(admission, keys[1]) == "next in line"
