"""The list of fault points is the list of the places."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fusemld
from fusemld.model import faults

PACKAGE = Path(fusemld.__file__).parent
CALL = re.compile(r'faults\.point\("([^"]+)"\)')


def test_every_listed_point_is_somewhere_and_every_place_is_listed() -> None:
    found = [name for file in PACKAGE.rglob("*.py") for name in CALL.findall(file.read_text())]

    assert sorted(found) == sorted([*faults.POINTS, *faults.KUBERNETES_POINTS, *faults.UPKEEP_POINTS])


@pytest.mark.parametrize(("fault", "passed"), [("", 3), ("b", 3), ("a", 0), ("a:2", 1)])
def test_a_process_dies_at_the_point_and_time_that_its_environment_names(fault: str, passed: int) -> None:
    program = "from fusemld.model import faults\nfor n in range(3): faults.point('a'); print(n, flush=True)"

    done = subprocess.run(
        [sys.executable, "-c", program], env={faults.VARIABLE: fault}, capture_output=True, check=False
    )

    assert len(done.stdout.split()) == passed
    assert done.returncode == (0 if passed == 3 else -9)
