"""The host of a campaign, and what goes wrong with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

from tests.acceptance import mishaps
from tests.acceptance.daemon import Daemon
from tests.torture.assaults import Mishap, What

DAY_S = 86400.0
DISK_MIB = 512


class Host:
    """Of one daemon. Where the host can have it, its state is on a small disk of its own."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._double: mishaps.HostDouble | None = None
        self._days = 0.0

    def why_not(self, what: What) -> str:
        """Empty where it can be brought about here."""
        match what:
            case What.FULL_DISK | What.UNWRITABLE:
                return mishaps.why_no_small_disk()
            case What.HOST_DOWN:
                return mishaps.why_no_mounts()
            case What.SET_CLOCK | What.SLOW_DISK:
                return mishaps.why_no_double()
            case What.FEW_DESCRIPTORS | What.LOST_EVENTS | What.LOST_JOURNAL:
                return ""

    def prepare(self) -> None:
        """Before the daemon starts, among private mounts where these can be had."""
        daemon = self._daemon
        if not mishaps.why_no_small_disk():
            mishaps.mount_small_disk(daemon.state, daemon.base / "disk", DISK_MIB)
            (daemon.state / "lost+found").rmdir()
        if not mishaps.why_no_double():
            self._double = mishaps.HostDouble(daemon.base)
            daemon.environment |= self._double.environment

    def reboot(self) -> None:
        """All that ran is dead: let the next one find another boot."""
        mishaps.change_boot_id(self._daemon.base / "boot_id")

    @contextmanager
    def suffering(self, mishap: Mishap, pids: Collection[int]) -> Iterator[None]:
        """`pids` are the daemon's and its keeper's."""
        daemon = self._daemon
        match mishap.what:
            case What.FULL_DISK:
                with mishaps.full_disk(daemon.state):
                    yield
            case What.UNWRITABLE:
                files = [daemon.state / name for name in ("fusemld.db", "fusemld.db-wal", "keeper/journal")]
                with mishaps.unwritable(file for file in files if file.exists()):
                    yield
            case What.FEW_DESCRIPTORS:
                with mishaps.few_descriptors(pids, mishap.spare):
                    yield
            case What.SET_CLOCK:
                self._days = mishap.days
                self._tell()
                yield
            case What.SLOW_DISK:
                self._tell(mishap.sync_s)
                yield
                self._tell()
            case What.LOST_EVENTS:
                _signal(pids, signal.SIGSTOP)
                try:
                    mishaps.flood_with_events(daemon.folder)
                    yield
                finally:
                    _signal(pids, signal.SIGCONT)
            case What.LOST_JOURNAL:
                (daemon.state / "keeper" / "journal").unlink(missing_ok=True)
                yield
            case What.HOST_DOWN:
                yield

    def _tell(self, sync_s: float = 0.0) -> None:
        assert self._double is not None
        self._double.set(clock_is_off_by_s=self._days * DAY_S, sync_takes_s=sync_s)


def _signal(pids: Collection[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
