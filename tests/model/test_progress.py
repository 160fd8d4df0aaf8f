"""Whether somebody gets on."""

from __future__ import annotations

import math

from fusemld.model.progress import Progress
from tests.daemon.running import Clock


def test_of_who_has_nothing_to_do_nothing_is_due() -> None:
    progress = Progress(Clock(5.0))

    progress.step()

    assert (progress.doing, progress.due_at) == ("", math.inf)


def test_who_works_has_got_on_at_every_step_until_he_rests() -> None:
    clock = Clock(5.0)
    progress = Progress(clock)

    progress.work("counting")
    clock.now = 7.0
    before = progress.due_at
    progress.step()
    after = progress.due_at
    progress.rest(10.0)
    progress.step()

    assert (before, after) == (5.0, 7.0)
    assert (progress.doing, progress.due_at) == ("", 17.0)
