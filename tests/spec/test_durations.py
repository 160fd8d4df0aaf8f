from __future__ import annotations

import pytest

from fusemld.spec.durations import LONGEST_S, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400), ("0.5s", 0.5), ("0s", 0)]
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "s", "1w", "-1s", "1 h", "1h30m", "1e3s", "٣s", "9" * 20 + "s"])
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="90s, 15m, 2h or 1d"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["3650d", "87600h", "315360000s"])
def test_ten_years_are_a_duration(text: str) -> None:
    assert parse_duration(text) == LONGEST_S


@pytest.mark.parametrize("text", ["3650.001d", "87601h", "999999999d"])
def test_what_is_longer_is_refused_with_the_bound(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}' is too long a duration: the longest is 3650d, ten years"):
        parse_duration(text)
