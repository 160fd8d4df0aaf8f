from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemld.kube.pace import LONGEST_S, SHORTEST_S, UNSAID_S, Pace


def test_everything_may_start_until_the_limit_is_reached() -> None:
    pace = Pace(2)

    pace.started()
    assert pace.wait_s(0.0) == 0.0
    pace.started()

    assert pace.wait_s(0.0) is None
    pace.ended()
    assert pace.wait_s(0.0) == 0.0


@pytest.mark.parametrize(
    ("said_s", "pause_s"),
    [(5.0, 5.0), (0.0, SHORTEST_S), (None, UNSAID_S), (-3.0, SHORTEST_S), (1e9, LONGEST_S)],
)
def test_nobody_starts_before_the_time_that_the_server_said(said_s: float | None, pause_s: float) -> None:
    pace = Pace(8)

    pace.refused(started_at=-1.0, now=0.0, retry_after_s=said_s)

    assert pace.wait_s(0.0) == pause_s
    assert pace.wait_s(pause_s) == 0.0


def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    pace = Pace(8)

    pace.refused(started_at=0.0, now=10.0, retry_after_s=30.0)
    pace.refused(started_at=0.0, now=11.0, retry_after_s=1.0)

    assert pace.wait_s(12.0) == 28.0


def test_refusals_that_tell_of_the_same_overload_halve_the_limit_once() -> None:
    pace = Pace(64)

    for _ in range(40):
        pace.refused(started_at=1.0, now=2.0, retry_after_s=1.0)

    assert pace.limit == 32.0
    pace.refused(started_at=3.5, now=4.0, retry_after_s=1.0)
    assert pace.limit == 16.0


def test_a_round_of_successes_raises_the_limit_by_about_one_and_never_above_the_most() -> None:
    pace = Pace(10)
    pace.refused(started_at=0.0, now=1.0, retry_after_s=0.0)

    for _ in range(5):
        pace.served()
    assert 5.8 < pace.limit < 6.0

    for _ in range(1000):
        pace.served()
    assert pace.limit == 10.0


def test_one_request_at_a_time_is_always_possible() -> None:
    pace = Pace(4)

    for second in range(100):
        pace.refused(started_at=second + 0.5, now=second + 1.0, retry_after_s=0.0)

    assert pace.limit == 1.0
    assert pace.wait_s(1000.0) == 0.0


_STEPS = st.lists(
    st.tuples(st.sampled_from(["start", "serve", "refuse"]), st.floats(0.0, 3.0), st.floats(0.0, 5.0)),
    max_size=200,
)


@given(most=st.integers(1, 100), steps=_STEPS)
def test_no_request_starts_above_the_limit_or_in_a_pause(most: int, steps: list[tuple[str, float, float]]) -> None:
    pace, now, starts = Pace(most), 0.0, list[float]()
    for step, passed_s, said_s in steps:
        now += passed_s
        if step == "start":
            if pace.wait_s(now) == 0.0:
                assert now >= pace.resumes_at
                assert pace.under_way < pace.limit
                pace.started()
                starts.append(now)
        elif starts:
            started_at = starts.pop(0)
            pace.ended()
            if step == "serve":
                pace.served()
            else:
                pace.refused(started_at=started_at, now=now, retry_after_s=said_s)
        assert 1.0 <= pace.limit <= most
        assert pace.under_way == len(starts)
