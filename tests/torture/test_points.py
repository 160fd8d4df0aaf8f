"""The list of fault points is the list of the places in the code, and each has a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.torture.points import LISTED, places

ROOT = Path(__file__).parents[2]


def test_every_place_in_the_code_is_listed_once_and_every_listed_point_is_a_place() -> None:
    assert sorted(place.name for place in places()) == sorted(LISTED)


def test_every_point_is_hit_by_a_test() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "tests.torture.points"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    assert all(f"{name}  fusemld/" in listed for name in LISTED)
    assert "HIT BY NO TEST" not in listed, listed
    assert "IN NO LIST" not in listed
