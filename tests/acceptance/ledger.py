"""What steps write down themselves, and how runs of them are asked for and read."""

from __future__ import annotations

from collections import Counter
from typing import Any

from fusemld.executors.process.spawning import MARKER
from tests.acceptance.daemon import Daemon


class Ledger:
    """What the steps themselves write down: `began RUN/STEP/ATTEMPT`, `ended RUN/STEP/ATTEMPT`."""

    def __init__(self, daemon: Daemon) -> None:
        self.file = daemon.base / "ledger"
        self.file.touch()
        self.again = daemon.base / "again"

    @property
    def work(self) -> str:
        """The beginning of a step's script. `MARKER` holds what names the attempt, after a colon."""
        return f"echo began ${{{MARKER}#*:step/}} >> {self.file}; echo begun;"

    @property
    def done(self) -> str:
        return f"echo ended ${{{MARKER}#*:step/}} >> {self.file}; echo done"

    @property
    def endless(self) -> str:
        """The script of a step that ends by itself only where it begins after `again` was made."""
        return f"{self.work} test -e {self.again} || sleep 1000; {self.done}"

    def count(self, word: str) -> Counter[str]:
        return Counter(line.split()[1] for line in self.file.read_text().splitlines() if line.startswith(word))

    def assert_nothing_twice(self, steered: str = "steer") -> None:
        """Plugin steps are resumed at the same attempt: that is promised to be safe."""
        began = self.count("began")
        twice = [key for key, times in began.items() if times > 1 and f"/{steered}/" not in key]
        assert not twice, self.file.read_text()
        assert max(self.count("ended").values(), default=0) <= 1, self.file.read_text()


def step(name: str, script: str, more: str = "") -> str:
    return f"  - name: {name}\n    image: host\n    command: [sh, -c, '{script}']\n{more}"


def attempts(run: dict[str, Any], name: str) -> list[dict[str, Any]]:
    (found,) = [entry["attempts"] for entry in run["steps"] if entry["name"] == name]
    return list(found)


def numbers(run: dict[str, Any]) -> dict[str, list[int]]:
    return {entry["name"]: [attempt["number"] for attempt in entry["attempts"]] for entry in run["steps"]}
