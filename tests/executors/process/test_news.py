from __future__ import annotations

import pytest

from fusemld.executors.process.news import MOMENT_S, News
from fusemld.hooks.processes import ProcessEnded, ProcessStarted


def started(key: str) -> ProcessStarted:
    return ProcessStarted(key=key, at=0.0, pid=1)


def ended(key: str) -> ProcessEnded:
    return ProcessEnded(key=key, at=0.0, exit_status=0)


def test_who_has_nothing_to_tell_waits_for_nothing() -> None:
    assert News().wait_s(5.0) == 0.0


def test_a_start_is_told_a_moment_after_the_first_of_them() -> None:
    news = News()
    news.add(started("a"), 10.0)
    news.add(started("b"), 10.0 + MOMENT_S / 2)

    waits = [news.wait_s(10.0 + part * MOMENT_S) for part in (0, 0.5, 1, 2)]

    assert waits == pytest.approx([MOMENT_S, MOMENT_S / 2, 0.0, 0.0], abs=1e-9)


def test_an_end_is_told_at_once_with_what_waits_in_the_order_of_what_happened() -> None:
    news = News()
    events: list[ProcessStarted | ProcessEnded] = [started("a"), started("b"), ended("a")]
    for event in events:
        news.add(event, 10.0)

    assert news.wait_s(10.0) == 0.0
    assert news.take() == events
    assert news.take() == []


def test_what_comes_after_it_was_told_waits_for_a_moment_of_its_own() -> None:
    news = News()
    news.add(started("a"), 10.0)
    news.take()
    news.add(started("b"), 20.0)

    assert news.wait_s(20.0) == pytest.approx(MOMENT_S)
