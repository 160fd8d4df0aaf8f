from __future__ import annotations

from email.utils import formatdate

import pytest

from fusemld.kube.server_clock import ServerClock

NOON = 1_795_000_000.0


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("off_s", "expected"), [(0.0, NOON), (1.5, NOON + 1.5), (-300.0, NOON), (310.0, NOON)])
def test_the_servers_time_counts_where_ours_is_wrong(off_s: float, expected: float) -> None:
    clock = ServerClock(Clock(NOON + off_s), Clock(7.0))

    clock.hear(formatdate(NOON, usegmt=True))

    assert clock.now() == expected


def test_it_goes_on_when_ours_is_set() -> None:
    ours, monotonic = Clock(NOON), Clock(0.0)
    clock = ServerClock(ours, monotonic)
    clock.hear(formatdate(NOON, usegmt=True))

    ours.now, monotonic.now = NOON + 86_400, 20.0

    assert clock.now() == NOON + 20


@pytest.mark.parametrize("date", [None, "", "yesterday", "Sun, 99 Nov 2026 00:00:00 GMT"])
def test_without_its_word_ours_has_to_do(date: str | None) -> None:
    clock = ServerClock(Clock(NOON), Clock(0.0))

    clock.hear(date)

    assert clock.now() == NOON
