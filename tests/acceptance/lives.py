"""Daemons that die where a test wants it."""

from __future__ import annotations

import os
import signal

from fusemld.executors.process.spawning import boot_id
from fusemld.model.run import RunState
from tests.acceptance.daemon import Daemon, gone, keepers, runs


class Life:
    """A daemon, and keepers that it starts, that die at a fault point."""

    def __init__(self, daemon: Daemon, fault: str) -> None:
        self.process = daemon.spawn(fault)
        self._daemon = daemon
        self._keepers: set[int] = set()

    def ends(self) -> bool:
        """Whether the fault came (True) or the run was over before. Then the daemon is killed, whatever the
        fault has killed."""
        try:
            return bool(self._daemon.wait_for(self._has_died, 60, "the fault") == "died")
        finally:
            self.process.kill()
            self.process.wait()

    def _is_detached(self, pid: int) -> bool:
        """Those who are on the way to it, in the daemon's session or one of their own, end by themselves."""
        try:
            return os.getsid(pid) not in (pid, self.process.pid)
        except ProcessLookupError:
            return False

    def _has_died(self) -> str:
        """`died`, `over` or, while neither is true, nothing."""
        self._keepers |= {pid for pid in keepers(self._daemon) if self._is_detached(pid)}
        if self.process.poll() is not None or any(map(gone, self._keepers)):
            assert self.process.returncode in (None, -signal.SIGKILL), self._daemon.journal()[-3000:]
            return "died"
        return "over" if any(run.state is not RunState.RUNNING for run in runs(self._daemon)) else ""


def crash_host(daemon: Daemon, is_journal_lost: bool) -> None:
    """Kill everything, and let what was written come from another boot; what was never synced may be gone."""
    daemon.kill_everything()
    for file in (daemon.state / "keeper" / "journal", daemon.state / "attempts" / "boot.json"):
        text = file.read_text()
        assert boot_id() in text
        file.write_text(text.replace(boot_id(), "another-boot"))
    if is_journal_lost:
        (daemon.state / "keeper" / "journal").unlink()
