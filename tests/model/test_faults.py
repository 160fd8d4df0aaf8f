"""A process dies where its environment says, and nowhere else. `tests.torture.test_points` looks at the places."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fusemld.model import faults


@pytest.mark.parametrize(("fault", "passed"), [("", 3), ("b", 3), ("a", 0), ("a:2", 1)])
def test_a_process_dies_at_the_point_and_time_that_its_environment_names(fault: str, passed: int) -> None:
    program = "from fusemld.model import faults\nfor n in range(3): faults.point('a'); print(n, flush=True)"

    done = subprocess.run(
        [sys.executable, "-c", program], env={faults.VARIABLE: fault}, capture_output=True, check=False
    )

    assert len(done.stdout.split()) == passed
    assert done.returncode == (0 if passed == 3 else -9)
