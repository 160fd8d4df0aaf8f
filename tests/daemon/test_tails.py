"""The last line of a log, whatever was written to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusemld.daemon.tails import LONGEST, last_line


@pytest.mark.parametrize(
    ("written", "line"),
    [
        (b"", ""),
        (b"one\ntwo\n", "two"),
        (b"one\ntw", "tw"),
        (b"one\n\n  \n", "one"),
        (b"10 %\r20 %\r", "20 %"),
        (b"\x1b[32mgreen\x1b[0m\n", "[32mgreen[0m"),
        (b"\xff\xfe\n", "��"),
        (b"x" * 10_000, "x" * LONGEST),
    ],
)
def test_the_last_line_with_something_on_it_is_what_the_step_says(
    tmp_path: Path, written: bytes, line: str
) -> None:
    log = tmp_path / "log"
    log.write_bytes(written)

    assert last_line(log) == line


def test_a_log_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert last_line(tmp_path / "none") == ""
