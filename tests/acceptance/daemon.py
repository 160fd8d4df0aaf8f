"""A real daemon as a process, used as a person would: through its folder, its socket and its command lines."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil

from fusemld.api import views
from fusemld.api.client import Client
from fusemld.executors.process.spawning import MARKER
from fusemld.model import faults
from fusemld.model.errors import FusemldError
from fusemld.model.run import RunState
from tests.cli.commands import invoke

T = TypeVar("T")

BIN = Path(sys.executable).parent
EXAMPLES = Path(__file__).parents[2] / "examples"
START_S = 30.0


class Daemon:
    """One state folder with its daemon, started and killed as often as a test likes."""

    def __init__(self, base: Path, runtime: Path) -> None:
        self.base = base
        self.folder = base / "inbox"
        self.state = base / "state"
        self.codesets = base / "codesets"
        self.socket = runtime / "fusemld.sock"
        self.log = base / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.command = [str(BIN / "fusemld"), "run"]
        self.environment = {name: text for name, text in os.environ.items() if not name.startswith("FUSEMLD_")} | {
            "FUSEMLD_FOLDER": str(self.folder),
            "FUSEMLD_STATE": str(self.state),
            "FUSEMLD_SOCKET": str(self.socket),
            "FUSEMLD_CODESETS_ROOTS": str(self.codesets),
            "FUSEMLD_INTAKE_RESCAN_S": "1",
            "FUSEMLD_CODESETS_POLL_S": "1",
        }
        if shared := os.environ.get("FUSEMLD_TEST_CACHE"):
            self.environment["FUSEMLD_CACHE"] = shared
        self.folder.mkdir(parents=True)
        self.codesets.mkdir()

    # The daemon

    def start(self, **settings: str) -> None:
        """Start it and wait until it answers; `settings` are `FUSEMLD_*` variables without the prefix."""
        self.environment |= {f"FUSEMLD_{name}": text for name, text in settings.items()}
        self.spawn()
        self.wait_for(self._answers, START_S, "the daemon to answer")

    def spawn(self, fault: str = "") -> subprocess.Popen[bytes]:
        """Start it, and let it, or a keeper that it starts, die at the fault point."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment | ({faults.VARIABLE: fault} if fault else {}),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.process

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the daemon ended:\n{self.journal()[-3000:]}"
        return self._ask("/runs", list[views.RunSummary]) is not None

    def kill(self) -> None:
        """As `kill -9` does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def kill_everything(self) -> None:
        """Daemon, keeper and steps, as when the host goes down."""
        self.kill()
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):  # some end by themselves meanwhile
                process.kill()
        self.wait_for(lambda: not self.processes(), 10, "all to be dead")

    def terminate(self) -> float:
        """SIGTERM; how long it took in seconds."""
        assert self.process is not None
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=20)
        return time.monotonic() - started

    def keeper_pid(self) -> int:
        return keepers(self)[0]

    def processes(self) -> list[psutil.Process]:
        """Everything alive that belongs to this state folder."""
        found = []
        for process in psutil.process_iter():
            try:
                is_ours = str(self.base) in " ".join([*process.cmdline(), *process.environ().values()])
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def stop_everything(self) -> None:
        self.run("fusemld", "stop", "--all")
        if self.process is not None:
            self.process.wait(timeout=30)

    def close(self) -> None:
        """At the end of a test, whatever has happened."""
        self.run("fusemld", "stop", "--all", check=False)
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()

    def journal(self) -> str:
        return self.log.read_text()

    def install_plugin(self, name: str, source: str) -> None:
        """A distribution like anybody else's with one module, for this daemon only."""
        site = self.base / "site"
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{name}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[fusemld]\n{name} = {name}\n")
        self.environment["PYTHONPATH"] = str(site)

    # The folder

    def drop(self, name: str, text: str) -> Path:
        """Write a document the way careful programs do."""
        file = self.folder / name
        temporary = file.with_name(f".{file.name}.tmp")
        temporary.write_text(text)
        temporary.replace(file)
        return file

    def drop_example(self, example: str) -> Path:
        file = EXAMPLES / example
        return self.drop(file.name, file.read_text())

    def add_codeset(self, name: str, example: str, project: str = "demo") -> Path:
        """A folder codeset with the files of an example."""
        target = self.codesets / name
        shutil.copytree(EXAMPLES / "codesets" / example, target)
        self.drop(f"codeset-{name}.yaml", f"name: {name}\nproject: {project}\npath: {target}\n")
        return target

    # The command lines

    def run(self, tool: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [BIN / tool, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert not check or done.returncode == 0, (
            f"{tool} {arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done

    def json(self, *arguments: str) -> Any:
        """What the client prints for programs."""
        done = invoke("fuseml", [*arguments, "-o", "json"], self.environment)
        assert done.exit_code == 0, f"fuseml {arguments}: {done.exit_code}\n{done.output}{done.exception}"
        return json.loads(done.stdout)

    def file(self, name: str) -> dict[str, Any]:
        """What `fuseml files` says of the only document of a file, once it is known."""
        found = self.wait_for(lambda: self.documents(name), 10, f"{name} to be seen")
        assert len(found) == 1, found
        return dict(found[0])

    def documents(self, name: str) -> list[dict[str, Any]]:
        """What `fuseml files` says of the documents of a file; none while it is not known."""
        return [entry for entry in self.json("files") if entry["path"] == name]

    # Waiting

    def wait_for(self, condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
        deadline = time.monotonic() + timeout_s
        while True:
            value = condition()
            if value:
                return value
            assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}\n{self.journal()[-3000:]}"
            time.sleep(0.05)

    def run_of(self, name: str, timeout_s: float = 20) -> str:
        """The run that a file has started."""

        def started() -> str:
            entries = self.documents(name)
            rejected = [entry for entry in entries if entry["state"] == "rejected"]
            assert not rejected, rejected
            return next((entry["run"] for entry in entries if entry["run"]), "")

        return str(self.wait_for(started, timeout_s, f"a run of {name}"))

    def finished(self, run: str, timeout_s: float = 60) -> dict[str, Any]:
        """The run once it is over."""

        def over() -> bool:
            view = self.view(run)
            return view is not None and view.state is not RunState.RUNNING

        self.wait_for(over, timeout_s, f"the end of {run}")
        return dict(self.json("get", run))

    def step(self, run: str, name: str) -> dict[str, Any]:
        (found,) = [step for step in self.json("get", run)["steps"] if step["name"] == name]
        return dict(found)

    def in_state(self, run: str, step: str, state: str, timeout_s: float = 30) -> None:
        def reached() -> bool:
            view = self.view(run)
            return view is not None and any(each.name == step and each.state == state for each in view.steps)

        self.wait_for(reached, timeout_s, f"{step} to be {state}")

    def view(self, run: str) -> views.RunView | None:
        """None while nobody answers."""
        return self._ask(f"/runs/{run}", views.RunView)

    def _ask(self, path: str, kind: type[T]) -> T | None:
        """Cheaper than the command line; None while nobody answers."""
        try:
            return Client(self.socket).get(path, kind)
        except FusemldError:
            return None


def processes_of_steps(daemon: Daemon) -> list[psutil.Process]:
    found = []
    for process in daemon.processes():
        try:
            if MARKER in process.environ():
                found.append(process)
        except psutil.Error:
            continue
    return found


def keepers(daemon: Daemon) -> list[int]:
    """Both processes of a keeper that is just detaching itself count."""
    keeper = "fusemld.executors.process.keeper"
    return [process.pid for process in daemon.processes() if keeper in command_of(process)]


def command_of(process: psutil.Process) -> list[str]:
    """Its arguments; none of one that is gone meanwhile."""
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def runs(daemon: Daemon, **query: str) -> list[views.RunSummary]:
    """Cheaper than the command line; none while nobody answers."""
    try:
        return list(Client(daemon.socket).get("/runs", list[views.RunSummary], **query))
    except FusemldError:
        return []


@contextmanager
def daemon_of(folder: Path) -> Iterator[Daemon]:
    """A daemon below the folder that is not started yet. At the end everything of it is stopped, and nothing may
    be left over."""
    with tempfile.TemporaryDirectory(prefix="fusemld-") as runtime:
        made = Daemon(folder / "d", Path(runtime))
        try:
            yield made
        finally:
            try:
                made.close()
            finally:
                left = [(process, command_of(process)) for process in made.processes()]
                for process, _ in left:
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
            assert not left, f"left over: {[words for _, words in left]}"


@contextmanager
def running_daemon(folder: Path) -> Iterator[Daemon]:
    with daemon_of(folder) as made:
        made.start()
        yield made
