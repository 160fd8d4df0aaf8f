"""What goes wrong with a host: nothing is started twice, lost or stuck, and what holds it up is said."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fusemld.api import views
from fusemld.api.client import Client
from fusemld.model.errors import FusemldError
from tests.acceptance import mishaps
from tests.acceptance.daemon import Daemon, keepers, processes_of_steps, runs
from tests.acceptance.ledger import Ledger, attempts, numbers, step
from tests.torture.verdict import damage

pytestmark = pytest.mark.acceptance

DAY_S = 24 * 3600.0


@pytest.fixture
def mounts() -> Iterator[None]:
    with mishaps.private_mounts():
        yield


@pytest.fixture
def double(daemon: Daemon) -> mishaps.HostDouble:
    made = mishaps.HostDouble(daemon.base)
    daemon.environment |= made.environment
    return made


@pytest.fixture
def ledger(daemon: Daemon) -> Ledger:
    return Ledger(daemon)


@pytest.fixture
def small_disk(mounts: None, daemon: Daemon) -> None:
    """State, logs and journal are on a file system of their own."""
    image = daemon.base / "disk"
    mishaps.mount_small_disk(daemon.state, image)
    image.unlink()
    daemon.log = daemon.state / "daemon.log"


def health(daemon: Daemon) -> str:
    """What it says is wrong; empty while nobody answers."""
    try:
        view = Client(daemon.socket).get("/health", views.HealthView)
    except FusemldError:
        return ""
    return "; ".join(component.message for component in view.components if not component.ok)


def says(daemon: Daemon, text: str) -> Callable[[], bool]:
    return lambda: text in health(daemon)


def what_is_written(daemon: Daemon) -> list[Path]:
    """Not the index of the write-ahead log: it is written as memory, and the kernel answers that with SIGBUS."""
    return [daemon.state / name for name in ("fusemld.db", "fusemld.db-wal", "keeper/journal")]


class Work:
    """A run that waits for a gate in its first step, and others that are asked for later; each has two steps, a
    codeset and an output."""

    def __init__(self, daemon: Daemon, ledger: Ledger, more: str = "") -> None:
        self._daemon = daemon
        self._ledger = ledger
        self._asked = 0
        self.gate = daemon.base / "gate"
        self.went_on_with: set[int] = set()
        """The processes that were there when all runs had ended."""
        data = daemon.codesets / "data"
        data.mkdir()
        (data / "words").write_text("some words")
        waits = f"{ledger.work} until test -e {self.gate}; do sleep 0.05; done;"
        output = 'cat words > "$FUSEML_RESULTS_DIR/words" || exit 5;'
        daemon.drop("data.yaml", f"name: data\nproject: demo\npath: {data}\n")
        daemon.drop(
            "work.yaml",
            "name: work\ninputs: [{name: number}]\noutputs: [{name: words}]\nsteps:\n"
            + step("one", f"{waits} {ledger.done}", more)
            + step(
                "two",
                f"{ledger.work} {output} {ledger.done}",
                "    inputs: [{name: data, codeset: {name: demo/data, path: /project}}]\n"
                "    outputs: [{name: words}]\n",
            ),
        )

    def _runs(self) -> list[views.RunSummary]:
        return runs(self._daemon, workflow="work")

    def ask(self, count: int = 1) -> None:
        for _ in range(count):
            text = f"workflow: work\ninputs: {{number: '{self._asked}'}}\n"
            self._daemon.drop(f"ask-{self._asked}.yaml", text)
            self._asked += 1

    def begin(self, count: int = 1) -> None:
        """Ask for runs, and wait until all of them are in their first step."""
        before = self._begun()
        self.ask(count)
        self._daemon.wait_for(lambda: self._begun() == before + count, 20, "steps to begin")

    def _begun(self) -> int:
        """Steps of these runs: others may begin at the same time."""
        return sum(key.startswith("work-") for key in self._ledger.count("began"))

    def assert_all_well(self, *, lost: int = 0) -> list[dict[str, Any]]:
        """Every run that was asked for succeeds, at its first attempts but for so many that were lost, and nothing
        is left."""
        daemon = self._daemon
        daemon.wait_for(lambda: len(self._runs()) == self._asked, 30, "a run for every request")
        views = [daemon.finished(run.id) for run in self._runs()]
        for view in views:
            assert view["state"] == "succeeded", view["message"] + daemon.run("fuseml", "why", view["id"]).stdout
            assert view["outputs"] == {"words": "some words"}
            assert numbers(view) in ({"one": [1], "two": [1]}, {"one": [1, 2], "two": [1]})
        assert sum(numbers(view)["one"] == [1, 2] for view in views) == lost
        self._ledger.assert_nothing_twice()
        attempts_left = daemon.state / "attempts"
        daemon.wait_for(lambda: not any(path.is_dir() for path in attempts_left.iterdir()), 10, "clean folders")
        assert not processes_of_steps(daemon)
        assert health(daemon) == ""
        self.went_on_with = {process.pid for process in daemon.processes()}
        daemon.stop_everything()
        assert damage(daemon.state / "fusemld.db") == ""
        return views


@mishaps.needs_small_disk
@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_is_told_and_waited_for(daemon: Daemon, ledger: Ledger) -> None:
    work = Work(daemon, ledger)
    daemon.start()
    before = {process.pid for process in daemon.processes()}
    work.begin(2)

    with mishaps.full_disk(daemon.state):
        work.ask(3)
        daemon.wait_for(says(daemon, "disk is full"), 20, "the daemon to say so")
        daemon.wait_for(
            lambda: "No space left on device" in daemon.run("fuseml", "why", "latest").stdout,
            20,
            "a run to say that it waits for room",
        )
        work.gate.touch()
        daemon.wait_for(lambda: not processes_of_steps(daemon), 20, "the first steps to end")

    work.assert_all_well()
    assert work.went_on_with == before, "a daemon or keeper ended"


@mishaps.needs_small_disk
@pytest.mark.usefixtures("small_disk")
def test_a_daemon_and_keeper_that_are_killed_on_a_full_disk_lose_nothing(daemon: Daemon, ledger: Ledger) -> None:
    work = Work(daemon, ledger)
    daemon.start()
    work.begin(2)

    with mishaps.full_disk(daemon.state):
        work.ask(2)
        daemon.wait_for(says(daemon, "disk is full"), 20, "the daemon to say so")
        daemon.kill()
        for pid in keepers(daemon):
            os.kill(pid, signal.SIGKILL)
        refused = daemon.run("fusemld", "run", check=False)
        work.gate.touch()
    daemon.start()

    assert refused.returncode == 1
    assert "No space left" in refused.stderr or "disk is full" in refused.stderr, refused.stderr
    assert "Traceback" not in refused.stderr
    work.assert_all_well(lost=2)


@mishaps.needs_small_disk
@pytest.mark.usefixtures("small_disk")
def test_gc_makes_room_on_a_full_disk_on_which_it_has_never_run(daemon: Daemon, ledger: Ledger) -> None:
    random = "head -c 1000000 /dev/urandom | base64"
    daemon.drop("talks.yaml", "name: talks\ninputs: [{name: number}]\nsteps:\n" + step("one", random))
    for number in range(30):
        daemon.drop(f"ask-{number}.yaml", f"workflow: talks\ninputs: {{number: '{number}'}}\n")
    daemon.start(RETENTION_LOGS_BYTES="1000", RETENTION_EVERY_S="0")
    daemon.wait_for(lambda: sum(run.finished_at is not None for run in runs(daemon)) == 30, 30, "thirty runs")
    daemon.drop("later.yaml", "name: later\nsteps:\n" + step("one", f"{ledger.work} {ledger.done}"))
    daemon.finished(daemon.run_of("later.yaml"))

    with mishaps.full_disk(daemon.state):
        for number in range(30):
            daemon.drop(f"later-{number}.yaml", "workflow: later\ninputs: {}\n")
        daemon.wait_for(says(daemon, "disk is full"), 20, "the daemon to say so")
        gc = daemon.run("fuseml", "gc", check=False)
        left = list((daemon.state / "logs").glob("talks-*"))
        daemon.wait_for(lambda: health(daemon) == "", 90, "the daemon to go on")

    assert left == []
    assert gc.returncode == 0 or "disk is full" in gc.stderr


@mishaps.needs_small_disk
@pytest.mark.usefixtures("small_disk")
def test_a_database_that_cannot_be_written_is_told_and_waited_for(daemon: Daemon, ledger: Ledger) -> None:
    work = Work(daemon, ledger)
    daemon.start()
    work.begin(2)

    with mishaps.unwritable(what_is_written(daemon)):
        work.ask(3)
        work.gate.touch()
        daemon.wait_for(says(daemon, "cannot write to the database"), 20, "the daemon to say so")
        daemon.wait_for(lambda: not processes_of_steps(daemon), 20, "the first steps to end")

    work.assert_all_well()


@mishaps.needs_small_disk
@pytest.mark.usefixtures("small_disk")
def test_a_read_only_file_system_is_told_and_nothing_is_lost(daemon: Daemon, ledger: Ledger) -> None:
    work = Work(daemon, ledger)
    daemon.start()
    work.begin(2)
    daemon.kill_everything()
    work.gate.touch()

    mishaps.remount(daemon.state, "ro")
    refused = daemon.run("fusemld", "run", check=False)
    mishaps.remount(daemon.state, "rw")
    daemon.start()

    assert refused.returncode == 1
    assert "ead-only file system" in refused.stderr
    assert "Traceback" not in refused.stderr
    work.assert_all_well(lost=2)


def test_processes_without_descriptors_wait_for_some(daemon: Daemon, ledger: Ledger) -> None:
    work = Work(daemon, ledger)
    daemon.start()
    work.begin(2)
    assert daemon.process is not None
    before = {daemon.process.pid, *keepers(daemon)}

    with mishaps.few_descriptors(before):
        work.ask(3)
        work.gate.touch()
        daemon.wait_for(lambda: not processes_of_steps(daemon), 20, "the first steps to end")
        time.sleep(3.0)  # long enough for everything to be tried

    work.assert_all_well()
    assert work.went_on_with == before, "a daemon or keeper ended"


def test_clients_wait_where_the_daemon_has_no_descriptors_for_them(daemon: Daemon) -> None:
    """And the daemon waits, too: it does not try again without a pause."""
    daemon.start()
    assert daemon.process is not None
    process = psutil.Process(daemon.process.pid)
    client = Client(daemon.socket)
    answers: list[views.HealthView] = []

    def ask() -> None:
        answers.append(client.get("/health", views.HealthView))

    asking = [threading.Thread(target=ask) for _ in range(3)]

    with mishaps.few_descriptors([process.pid]), contextlib.ExitStack() as connections:
        for _ in range(20):  # those that the daemon gives back meanwhile are theirs
            connections.enter_context(socket.socket(socket.AF_UNIX)).connect(str(daemon.socket))
        for each in asking:
            each.start()
        before_s = sum(process.cpu_times()[:2])
        time.sleep(3.0)
        spent_s = sum(process.cpu_times()[:2]) - before_s
        during = len(answers)
    for each in asking:
        each.join(10)

    assert during == 0
    assert len(answers) == len(asking)
    assert spent_s < 1.0
    assert "api.cannot_accept" in daemon.journal()


def test_documents_whose_events_were_dropped_are_found(daemon: Daemon, ledger: Ledger) -> None:
    work = Work(daemon, ledger)
    work.gate.touch()
    daemon.start(INTAKE_RESCAN_S="3600")
    assert daemon.process is not None

    daemon.process.send_signal(signal.SIGSTOP)
    mishaps.flood_with_events(daemon.folder)
    work.ask(10)
    daemon.process.send_signal(signal.SIGCONT)

    work.assert_all_well()


@mishaps.needs_double
@pytest.mark.parametrize("days", [3, -3])
def test_a_clock_that_jumps_ends_nothing_early_and_holds_up_nothing(
    daemon: Daemon, ledger: Ledger, double: mishaps.HostDouble, days: int
) -> None:
    again = daemon.base / "again"
    work = Work(daemon, ledger, "    timeout: 1d\n")
    daemon.drop(
        "timed.yaml",
        "name: timed\nsteps:\n"
        + step("late", f"{ledger.work} sleep 1000", "    needs: []\n    timeout: 6s\n")
        + step(
            "again",
            f"{ledger.work} test -e {again} || {{ touch {again}; exit 1; }}; {ledger.done}",
            "    needs: []\n    retry: {limit: 1, backoff: 6s}\n",
        ),
    )
    daemon.start()
    work.begin(1)
    timed = daemon.run_of("timed.yaml")
    assert "host.so" in Path(f"/proc/{daemon.keeper_pid()}/maps").read_text(), "the keeper has the same clock"
    daemon.in_state(timed, "again", "backoff")

    double.set(clock_is_off_by_s=days * DAY_S)
    late = daemon.finished(timed, 30)
    work.ask(2)
    daemon.kill()
    daemon.start()
    work.gate.touch()

    assert {entry["name"]: entry["state"] for entry in late["steps"]} == {"late": "failed", "again": "succeeded"}
    assert late["steps"][0]["attempts"][0]["ending"] == "timed out"
    daemon.folder.joinpath("timed.yaml").unlink()
    work.assert_all_well()


@mishaps.needs_double
def test_a_slow_disk_slows_down_and_nothing_else(
    daemon: Daemon, ledger: Ledger, double: mishaps.HostDouble
) -> None:
    work = Work(daemon, ledger)
    work.gate.touch()
    double.set(sync_takes_s=0.5)
    daemon.start()

    work.ask(2)
    answered_s = []
    while not any(run.finished_at for run in runs(daemon)):
        began = time.monotonic()
        runs(daemon)
        answered_s.append(time.monotonic() - began)
        assert len(answered_s) < 10_000

    assert statistics.median(answered_s) < 0.3, "nobody waits for the disk who does not have to"
    work.assert_all_well()


@mishaps.needs_mounts
def test_a_host_that_goes_down_loses_what_ran_and_says_so(
    mounts: None,
    daemon: Daemon,
    ledger: Ledger,
) -> None:
    work = Work(daemon, ledger)
    daemon.start()
    work.begin(2)

    daemon.kill_everything()
    work.gate.touch()
    mishaps.change_boot_id(daemon.base / "boot_id")
    daemon.start()
    views = work.assert_all_well(lost=2)

    reasons = [attempt["reason"] for view in views for attempt in attempts(view, "one")]
    assert sorted(set(reasons)) == ["first", "lost: the host went down while it ran"]
