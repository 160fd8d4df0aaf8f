from __future__ import annotations

import math

import msgspec
import pytest

from fusemld.api.views import moment


@pytest.mark.parametrize(
    ("epoch", "shown"),
    [
        (0.0, "1970-01-01T00:00:00Z"),
        (1767225600.0006, "2026-01-01T00:00:00.001000Z"),
        (999999999 * 86400.0, "9999-01-01T00:00:00Z"),
        (math.inf, "9999-01-01T00:00:00Z"),
        (math.nan, "9999-01-01T00:00:00Z"),
        (-math.inf, "0002-01-01T00:00:00Z"),
    ],
)
def test_a_time_that_no_calendar_has_is_shown_as_the_nearest_that_one_has(epoch: float, shown: str) -> None:
    assert msgspec.to_builtins(moment(epoch)) == shown
