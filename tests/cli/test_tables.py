from __future__ import annotations

import pytest

from fusemld.cli import tables


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-1, "0.0s"),
        (0.44, "0.4s"),
        (9.94, "9.9s"),
        (12.4, "12s"),
        (59.6, "1m00s"),
        (185, "3m05s"),
        (3599.7, "1h00m"),
        (7380, "2h03m"),
        (100 * 3600, "4d04h"),
    ],
)
def test_durations_are_short_and_never_show_sixty_of_a_unit(seconds: float, shown: str) -> None:
    assert tables.duration(seconds) == shown


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert tables.table(("a", "b"), [("long cell", "1"), ("x", "")]) == "A          B\nlong cell  1\nx"


def test_fields_without_a_value_are_left_out() -> None:
    assert tables.fields((("run", "r1"), ("message", ""), ("state", "odd"))) == "run:   r1\nstate: odd"


@pytest.mark.parametrize(
    ("text", "shown"), [("a\nb\tc", "a b c"), ("\x1b[31mred", "�[31mred"), ("Ünë ✓", "Ünë ✓")]
)
def test_control_characters_are_made_harmless(text: str, shown: str) -> None:
    assert tables.printable(text) == shown
