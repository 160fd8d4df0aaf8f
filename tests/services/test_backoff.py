from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fusemld.services.backoff import Backoff


def test_every_failure_doubles_the_pause() -> None:
    backoff = Backoff(initial_s=1.0, maximum_s=60.0)

    assert [backoff.delay_s(failures) for failures in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


@given(st.integers(min_value=0, max_value=10**9))
def test_the_pause_grows_and_is_bounded(failures: int) -> None:
    backoff = Backoff()

    assert backoff.initial_s <= backoff.delay_s(failures) <= backoff.delay_s(failures + 1) <= backoff.maximum_s
