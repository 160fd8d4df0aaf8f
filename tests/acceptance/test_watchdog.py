"""Nothing is stuck, and a daemon at work is not suspected of it."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from fusemld.api import views
from fusemld.api.client import Client
from tests.acceptance.daemon import Daemon, keepers, runs

pytestmark = pytest.mark.acceptance

RUNS = 150
FILES = 1000
BUSY = """\
name: busy
steps:
  - {name: first, image: host, command: [sleep, "0.05"]}
  - {name: left, image: host, needs: [first], command: ["true"]}
  - {name: right, image: host, needs: [first], retry: {limit: 1, backoff: 1s}, command: ["false"]}
  - {name: last, image: host, needs: [left], command: ["true"]}
---
""" + "---\n".join(f"{{kind: run, name: b{number}, workflow: busy, inputs: {{}}}}\n" for number in range(RUNS))

SLEEPER = "name: sleeper\nsteps:\n  - {name: sleep, image: host, timeout: 1h, command: [sleep, '600']}\n"


def test_a_busy_daemon_is_suspected_of_nothing(daemon: Daemon) -> None:
    daemon.start(WATCHDOG_LOOK_S="0.2", WATCHDOG_LASTS_S="2", WATCHDOG_LAG_S="20", LIMITS_STEPS="8")

    daemon.drop("busy.yaml", BUSY)
    daemon.wait_for(
        lambda: len([run for run in runs(daemon, limit="1000") if run.state == "failed"]) >= RUNS,
        120,
        "all runs to end",
    )

    assert "invariant.broken" not in daemon.journal()
    health = Client(daemon.socket).get("/health", views.HealthView)
    assert health.state is views.HealthState.OK, health.components


def test_many_files_and_a_folder_that_is_away_are_suspected_of_nothing(daemon: Daemon) -> None:
    settings = {"LOOK_S": "0.2", "LASTS_S": "0.5", "STANDS_S": "2", "LAG_S": "20"}
    daemon.start(RETENTION_EVERY_S="1", **{f"WATCHDOG_{name}": text for name, text in settings.items()})

    for number in range(FILES):
        daemon.drop(f"e{number}.yaml", f"id: e{number}\nservices: []\n")
    daemon.wait_for(lambda: len(daemon.json("files")) == FILES, 60, "all files to be taken in")
    away = daemon.folder.rename(daemon.folder.with_name("away"))
    daemon.wait_for(lambda: "intake.unavailable" in daemon.journal(), 20, "the folder to be missed")
    time.sleep(4)  # longer than may be stood still and than it must last
    components = Client(daemon.socket).get("/health", views.HealthView).components
    away.rename(daemon.folder)

    assert "invariant.broken" not in daemon.journal()
    assert [component.name for component in components if not component.ok] == ["watched folder"]
    assert len(daemon.json("files")) == FILES


def test_an_attempt_that_nobody_will_end_is_told(daemon: Daemon) -> None:
    """Its keeper was killed, and its lines are gone from the journal: the next keeper has never heard of it."""
    daemon.start(WATCHDOG_LOOK_S="0.2", WATCHDOG_LASTS_S="1", WATCHDOG_STOPS_S="1", STEPS_GRACE_S="1")
    daemon.drop("sleeper.yaml", SLEEPER)
    run = daemon.run_of("sleeper.yaml")
    daemon.in_state(run, "sleep", "running")
    assert daemon.process is not None
    others = [process for process in daemon.processes() if process.pid != daemon.process.pid]

    for pid in keepers(daemon):
        os.kill(pid, signal.SIGSTOP)
    journal = daemon.state / "keeper" / "journal"
    journal.write_bytes(journal.read_bytes().partition(b"\n")[0] + b"\n")
    for process in others:
        process.kill()
    _why(daemon, run, "attempt 1 is running, and executor process does not know it")
    daemon.run("fuseml", "cancel", run)
    _why(daemon, run, "attempt 1 was told to stop at ")

    health = Client(daemon.socket).get("/health", views.HealthView)
    told = [component.message for component in health.components if component.name == f"run {run}"]
    assert any(message.endswith("and executor process has not reported its end") for message in told)


def _why(daemon: Daemon, run: str, words: str) -> None:
    daemon.wait_for(lambda: words in daemon.run("fuseml", "why", run).stdout, 20, f"{words!r} to be told")


def test_why_says_where_a_queued_step_stands_and_what_happens_then(daemon: Daemon) -> None:
    daemon.start(LIMITS_STEPS="1")
    daemon.drop("sleeper.yaml", SLEEPER)
    first = daemon.run_of("sleeper.yaml")
    daemon.in_state(first, "sleep", "running")

    second = daemon.json("run", "sleeper")["id"]
    why = daemon.run("fuseml", "why", second).stdout

    assert "waiting for a free slot; next in line; the only slot is taken (limits.steps = 1)" in why
    assert "it fails if no slot was free by then" in why
    assert "it is stopped if it is not over by then" in daemon.run("fuseml", "why", first).stdout


def test_a_daemon_that_hangs_gives_no_sign_of_life_and_tells_afterwards(daemon: Daemon, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        daemon.environment |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1500000"}
        daemon.start(WATCHDOG_LOOK_S="0.2", WATCHDOG_LAG_S="2")
        assert daemon.process is not None
        while systemd.recv(100) != b"WATCHDOG=1":
            pass

        daemon.process.send_signal(signal.SIGSTOP)
        silent_since = time.monotonic()
        systemd.setblocking(False)
        while time.monotonic() - silent_since < 3:
            _drain(systemd)
            time.sleep(0.5)
        assert _drain(systemd) == 0, "systemd would have ended it by now"
        daemon.process.send_signal(signal.SIGCONT)

        daemon.wait_for(lambda: "invariant.broken" in daemon.journal(), 20, "the silence to be told")
    assert "nothing was done for" in daemon.journal()


def _drain(received: socket.socket) -> int:
    """How many messages were there."""
    count = 0
    while True:
        try:
            received.recv(100)
        except BlockingIOError:
            return count
        count += 1
