"""A bounded part of the crash campaign; `just torture --kills 500` is the whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.campaign import conduct

pytestmark = pytest.mark.acceptance


def test_whatever_is_killed_nothing_runs_twice_and_nothing_is_lost_or_stuck(tmp_path: Path) -> None:
    report = conduct(tmp_path, kills=6, total_runs=40, seed=4, say=print)

    assert report.kills.total() == 6
    assert report.mishaps.total() + len(report.impossible.keys() & {"full disk", "unwritable database"}) == 2
    assert report.runs == 40
    assert not report.violations, "\n".join(report.lines())
