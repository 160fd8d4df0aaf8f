"""Every command of the README does what the README says, typed in its order by somebody with an empty home."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.acceptance.daemon import BIN
from tests.cluster import images
from tests.cluster.fixtures import delete_namespace
from tests.cluster.local import LocalCluster
from tests.cluster.packages import UnpackedPackages
from tests.cluster.packages import command as succeed

pytestmark = [pytest.mark.acceptance, pytest.mark.services, pytest.mark.timeout(900)]

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text()
SECTIONS = re.split(r"^(?=## )", README, flags=re.MULTILINE)
(ON_A_CLUSTER,) = [section for section in SECTIONS if section.startswith("## On a cluster\n")]
(AS_A_SERVICE,) = [section for section in SECTIONS if section.startswith("## As a service\n")]
"""Typed by `test_service`, on a machine of its own."""
HERE = README.replace(ON_A_CLUSTER, "").replace(AS_A_SERVICE, "")
SET_UP = "python3 -m venv .venv && .venv/bin/pip install -q rust-just && .venv/bin/just "
MENTIONED = re.findall(r"`(fusemld? [^`]+)`", HERE)
PLACES = ("export ", "mkdir ")
"""How commands begin that say where things are, for all sections."""
PYTHON = "docker.io/library/python:3.12-slim"
NOT_POSSIBLE_NOW = 6


def typed(text: str) -> list[str]:
    """The commands of all blocks."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines()]


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
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            assert not left


def type_all(person: Person, commands: list[str]) -> str:
    """Each succeeds; what they have printed."""
    everything = ""
    for command in commands:
        if command == "fuseml watch latest":
            person.types("until fuseml get latest > /dev/null 2>&1; do sleep 0.2; done")

        status, printed = person.types(command)

        assert status == 0, f"{command}: {status}\n{printed}"
        everything += printed
        if command.startswith("fusemld run"):
            person.types("until fuseml runs > /dev/null 2>&1; do sleep 0.2; done")
    return everything


def test_the_commands_of_the_readme_work_in_their_order(person: Person) -> None:
    assert [command for command in typed(HERE) if command.startswith(SET_UP)] == [SET_UP + "demo", SET_UP + "test"]
    commands = [command for command in typed(HERE) if not command.startswith(SET_UP)]
    type_all(person, commands)
    for command in MENTIONED:
        if command.startswith("fusemld stop") or any(each.startswith(command) for each in commands):
            continue

        status, printed = person.types(command.replace(" RUN", " latest"))

        expected = (NOT_POSSIBLE_NOW,) if " RUN" in command else (0,)
        assert status in expected, f"{command}: {status}\n{printed}"
    status, printed = person.types("fusemld stop")
    assert (status, "stopped the daemon" in printed) == (0, True)


@contextmanager
def names_of_the_image(node: LocalCluster, *names: str) -> Iterator[None]:
    ctr = UnpackedPackages(node.folder / "deb").program("ctr")
    tool = (ctr, "-a", node.folder / "run/containerd.sock", "-n", images.NAMESPACE, "images")
    for name in names:
        succeed(*tool, "tag", "--force", images.BASE, name)
    try:
        yield
    finally:
        succeed(*tool, "delete", *names)


@pytest.mark.cluster
def test_the_commands_for_a_cluster_work_in_their_order(person: Person, node: LocalCluster) -> None:
    """Nothing can be pulled on this node: its one image takes the names of all that are asked for."""
    person.types(f"export KUBECONFIG={node.kubeconfig} PATH={node.assets}:$PATH")
    try:
        with names_of_the_image(node, "docker.io/library/busybox:1.37", "docker.io/alpine/git:2.49.1", PYTHON):
            printed = type_all(
                person, [each for each in typed(HERE) if each.startswith(PLACES)] + typed(ON_A_CLUSTER)
            )
    finally:
        if node.api.find("/api/v1/namespaces/fusemld") is not None:
            delete_namespace(node.api, "fusemld")

    assert "git version" in printed
    assert "the sum is 1066" in printed
    assert "succeeded" in printed


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
