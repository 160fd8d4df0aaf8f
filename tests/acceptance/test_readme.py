"""Every command of the README does what the README says, typed in its order by somebody with an empty home."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.acceptance.daemon import BIN

pytestmark = [pytest.mark.acceptance, pytest.mark.services, pytest.mark.timeout(900)]

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text()
SET_UP = "python3 -m venv .venv && .venv/bin/pip install -q rust-just && .venv/bin/just "
TYPED = [
    line[2:] for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL) for line in block.splitlines()
]
MENTIONED = re.findall(r"`(fusemld? [^`]+)`", README)
NOT_POSSIBLE_NOW = 6


class Person:
    """Somebody at a shell of their own, with everything of theirs below one folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        environment = {name: text for name, text in os.environ.items() if not name.startswith("FUSEMLD_")}
        self.shell = subprocess.Popen(
            ["bash", "-s"],
            cwd=PROJECT,
            env=environment | {"HOME": str(home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def types(self, command: str) -> tuple[int, str]:
        """The exit status and what is printed."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.write(f'{command}\nprintf "\\n== %d\\n" $?\n')
        self.shell.stdin.flush()
        lines: list[str] = []
        while not (match := re.fullmatch(r"== (\d+)\n", line := self.shell.stdout.readline())):
            assert line or self.shell.poll() is None, f"the shell ended at {command}: {''.join(lines)}"
            lines.append(line)
        return int(match[1]), "".join(lines)

    def leaves(self) -> list[psutil.Process]:
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.types("fusemld stop --all")
        self.shell.stdin.close()
        self.shell.wait(timeout=30)
        self.shell.stdout.close()
        return [process for process in psutil.process_iter() if str(self.home) in _home(process)]


def _home(process: psutil.Process) -> str:
    try:
        return str(process.environ().get("HOME", ""))
    except psutil.Error:
        return ""


@pytest.fixture
def person() -> Iterator[Person]:
    with tempfile.TemporaryDirectory(prefix="home-") as home:
        typist = Person(Path(home))
        try:
            yield typist
        finally:
            left = typist.leaves()
            for process in left:
                process.kill()
            assert not left


def test_the_commands_of_the_readme_work_in_their_order(person: Person) -> None:
    assert [command for command in TYPED if command.startswith(SET_UP)] == [SET_UP + "demo", SET_UP + "test"]
    commands = [command for command in TYPED if not command.startswith(SET_UP)]
    for command in commands:
        if command == "fuseml watch latest":
            person.types("until fuseml get latest > /dev/null 2>&1; do sleep 0.2; done")

        status, printed = person.types(command)

        assert status == 0, f"{command}: {status}\n{printed}"
        if command.startswith("fusemld run"):
            person.types("until fuseml runs > /dev/null 2>&1; do sleep 0.2; done")
    for command in MENTIONED:
        if command.startswith("fusemld stop") or any(typed.startswith(command) for typed in commands):
            continue

        status, printed = person.types(command.replace(" RUN", " latest"))

        expected = (NOT_POSSIBLE_NOW,) if " RUN" in command else (0,)
        assert status in expected, f"{command}: {status}\n{printed}"
    status, printed = person.types("fusemld stop")
    assert (status, "stopped the daemon" in printed) == (0, True)


def test_just_demo_ends_with_predictions_and_leaves_nothing_unless_it_is_told_to(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    command = [str(BIN / "just"), "demo", "--folder", str(folder)]

    first = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    left = _left(tmp_path)
    kept = subprocess.run([*command, "--keep"], cwd=PROJECT, capture_output=True, text=True, check=False)
    running = _left(tmp_path)
    exports = "; ".join(line for line in kept.stdout.splitlines() if line.startswith("  export "))
    ended = subprocess.run(["bash", "-c", f"{exports}; fusemld stop --all"], capture_output=True, check=False)

    assert first.returncode == 0, first.stdout + first.stderr
    assert re.search(r"(9|10) of 10 right", first.stdout)
    assert left == []
    assert kept.returncode == 0, kept.stdout + kept.stderr
    assert "reusing environment" in kept.stdout
    assert re.search(r"the MLflow UI: +http://127\.0\.0\.1:\d+", kept.stdout)
    assert running
    assert ended.returncode == 0
    assert _left(tmp_path) == []
    shutil.rmtree(folder)


def _left(folder: Path) -> list[list[str]]:
    return [_words(process) for process in psutil.process_iter() if str(folder) in " ".join(_words(process))]


def _words(process: psutil.Process) -> list[str]:
    try:
        return [*process.cmdline(), *process.environ().values()]
    except psutil.Error:
        return []
