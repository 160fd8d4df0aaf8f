"""Programs that outlive whoever started them: found again by their pid files, stopped for certain."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

PATIENCE_S = 5.0
STOP_S = 20.0


class ClusterError(Exception):
    """The cluster cannot be brought into the state that was asked for."""


def wait_for(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Raises `ClusterError` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {timeout_s:g} s for {what}")
        time.sleep(0.1)


class Programs:
    """Below `folder`: `run/NAME.pid` and `log/NAME.log` of each, and it is where they start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("run", "log"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def start(self, name: str, argv: Sequence[str | Path], env: Mapping[str, str]) -> bool:
        """False where it runs already."""
        if self.process(name) is not None:
            return False
        with self._log(name).open("wb") as log:
            started = subprocess.Popen(
                argv,
                cwd=self.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._pid_file(name).write_text(f"{started.pid}\n")
        # Not this object's to wait for: it may outlive this process.
        started.returncode = 0
        return True

    def process(self, name: str) -> psutil.Process | None:
        """What runs under this name. A number that meanwhile is another program's is none."""
        try:
            process = psutil.Process(int(self._pid_file(name).read_text()))
            is_it = name in process.name() or name in " ".join(process.cmdline())
        except (OSError, ValueError, psutil.Error):
            return None
        return process if is_it and process.status() != psutil.STATUS_ZOMBIE else None

    def kill(self, name: str) -> None:
        """As `kill -9` does; returns when it is gone."""
        if (process := self.process(name)) is not None:
            process.kill()
            # What another test session has started stays a zombie as long as that session lives.
            wait_for(lambda: self.process(name) is None, STOP_S, f"{name} to end")
        self._pid_file(name).unlink(missing_ok=True)

    def stop(self, name: str) -> None:
        """SIGTERM, and SIGKILL for who does not follow within a few seconds."""
        if (process := self.process(name)) is not None:
            process.terminate()
            with contextlib.suppress(ClusterError):
                wait_for(lambda: self.process(name) is None, PATIENCE_S, f"{name} to end")
        self.kill(name)

    def check(self, name: str) -> None:
        """Raises `ClusterError` with the program's last words if it does not run."""
        if self.process(name) is None:
            raise ClusterError(f"{name} has ended:\n{self.last_words(name)}")

    def last_words(self, name: str, lines: int = 5) -> str:
        return "\n".join(self._log(name).read_text(errors="replace").splitlines()[-lines:])

    def _pid_file(self, name: str) -> Path:
        return self.folder / "run" / f"{name}.pid"

    def _log(self, name: str) -> Path:
        return self.folder / "log" / f"{name}.log"
