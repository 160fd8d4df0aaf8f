from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.bench.peers.__main__ import FailureError, Result, last_line, peer, table, take


def test_the_table_has_the_median_of_the_rounds_and_of_their_ratios() -> None:
    floor = Result(seconds={"chain": [0.1, 0.2, 0.1], "fan": [0.1, 0.1, 0.1]})
    slow = Result(seconds={"chain": [0.2, 0.6, 0.4], "fan": [0.5, 0.5, 0.5]})

    lines = list(table({"bare loop": floor, "slow": slow}, {"slow": "slow==1"}))

    assert [line.split() for line in lines[1:]] == [
        ["bare", "loop", "1.00", "(1.0)", "1.00", "(1.0)"],
        ["slow==1", "4.00", "(3.0)", "5.00", "(5.0)"],
    ]


def test_a_peer_that_fails_is_reported_and_not_measured_again() -> None:
    asked = []

    def fails(shape: str) -> float:
        asked.append(shape)
        raise FailureError("no such thing")

    floor, broken = Result(seconds={"chain": [0.1], "fan": [0.1]}), Result()
    take(broken, fails)
    take(broken, fails)

    assert asked == ["chain"]
    assert list(table({"bare loop": floor, "broken": broken}, {}))[-1].endswith(
        "cannot be measured: no such thing"
    )


def test_a_script_that_fails_says_why() -> None:
    measure = peer("doit", Path(sys.executable))

    with pytest.raises(FailureError, match="No module named 'doit'"):
        measure("chain")


def test_the_last_line_is_what_a_script_has_to_say() -> None:
    assert last_line("noise\n0.5\n") == "0.5"
    assert last_line("") == ""
