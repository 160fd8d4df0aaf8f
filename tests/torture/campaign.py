"""Kill the daemon and its keeper again and again under load, then see whether every promise was kept.

`just torture --kills N [--runs N] [--seed N]`: nothing is started twice, nothing lost, nothing stuck. The seed
repeats the assaults in their order; how far the work is when they come is up to the machine.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import click

from fusemld.api import views
from fusemld.api.client import Client, url
from fusemld.executors.process.journal import Forgotten, Journal
from fusemld.model import faults
from fusemld.model.errors import FusemldError
from fusemld.model.run import Ending
from tests.acceptance.daemon import START_S, Daemon, daemon_of, keepers, processes_of_steps, runs
from tests.acceptance.mishaps import private_mounts, why_no_mounts
from tests.acceptance.serving import TEXTS_PLUGIN
from tests.torture import points
from tests.torture.assaults import POINTS, Assault, Fault, Kill, Mishap, Stop, Victim, What, plan
from tests.torture.errands import Errands
from tests.torture.host import Host
from tests.torture.report import Report
from tests.torture.verdict import (
    Violation,
    damage,
    has_no_room,
    is_given_up,
    judge,
    left_over,
    named_outputs,
    read_ledger,
)
from tests.torture.workload import SERVED, STEERING_PLUGIN, Requests, kinds

RUNS_PER_KILL = 4
MANY = "10000"
_REQUESTS_PER_FILE = 3
_LONG_JOURNAL_LINES = 980
_TICK_S = 0.05
_DROP_EVERY_S = 0.15
_CANCEL_EVERY_S = 0.3
_PILE_UP_S = 0.2
"""For requests to a keeper that is stopped."""
_FAULT_WITHIN_S = 15.0
_OVER_WITHIN_S = 180.0
"""After the last assault, without a single run coming to its end."""
_TIDY_WITHIN_S = 20.0


class Campaign:
    """One daemon, its workload and what is done to it. `conduct` is called once."""

    def __init__(self, daemon: Daemon, kills: int, total_runs: int, seed: int) -> None:
        self.report = Report(seed=seed)
        self._daemon = daemon
        self._client = Client(daemon.socket)
        self._kills = kills
        self._total_runs = total_runs
        self._assaults = plan(kills, random.Random(seed))
        self._chance = random.Random(seed)
        """For what depends on the clock; it must not change the order of the assaults."""
        self._ledger = daemon.base / "ledger"
        self._ledger.touch()
        self._kinds = kinds(self._ledger, "demo/data")
        self._requests = Requests(self._kinds, random.Random(seed))
        self._quota = 0
        self._cancelled: set[str] = set()
        self._drop_at = 0.0
        self._cancel_at = 0.0
        self._host = Host(daemon)
        self._data = daemon.codesets / "data"
        self._errands = Errands(daemon, self._data, random.Random(seed))
        self.report.impossible = {what: why for what in What if (why := self._host.why_not(what))}
        self._heard = 0
        """Where the journal of the daemon's present life begins, in bytes."""

    def conduct(self, say: Callable[[str], None]) -> Report:
        begun = time.monotonic()
        self._prepare()
        self._daemon.spawn()
        self._errands.start()
        try:
            self._assail(begun, say)
            self._judge()
        finally:
            self._errands.end()
        self.report.took_s = time.monotonic() - begun
        return self.report

    def _assail(self, begun: float, say: Callable[[str], None]) -> None:
        for number, assault in enumerate(self._assaults, start=1):
            done = min(self._total_runs, self._total_runs * self.report.kills.total() // self._kills)
            self._quota = max(self._quota, done, min(self._total_runs, len(self._kinds)))
            self._commit(assault)
            if number % 10 == 0:
                say(f"{time.monotonic() - begun:.0f} s: {self.report.kills.total()} kills, {self._quota} runs")
        self._quota = self._total_runs
        self._wait_until_over()

    def _prepare(self) -> None:
        daemon = self._daemon
        self._host.prepare()
        daemon.install_plugin("texts", TEXTS_PLUGIN)
        daemon.install_plugin("steering", STEERING_PLUGIN)
        self._data.mkdir()
        (self._data / "words").write_text("some words")
        daemon.drop("data.yaml", f"name: data\nproject: demo\npath: {self._data}\n")
        daemon.environment |= {"FUSEMLD_LIMITS_STEPS": "8", "FUSEMLD_STEPS_GRACE_S": "1"}
        for kind in self._kinds:
            daemon.drop(f"{kind.name}.yaml", kind.text)

    # The daemon's lives

    def _is_alive(self) -> bool:
        assert self._daemon.process is not None
        return self._daemon.process.poll() is None

    def _ready(self) -> bool:
        """Whether it answers. One that ended by itself instead is reported and started again."""
        if not self._is_alive():
            self._note_own_end()
            self._daemon.spawn()
        with suppress(FusemldError):
            self._client.get("/health", views.HealthView)
            return True
        return False

    def _note_own_end(self) -> None:
        """A daemon may be killed; by itself it must not end."""
        assert self._daemon.process is not None
        status = self._daemon.process.poll()
        if status not in (None, -signal.SIGKILL):
            self._violation("wrong", "daemon", f"exit status {status}: {self._daemon.journal()[-500:]}")

    # Assaults

    def _commit(self, assault: Assault) -> None:
        match assault:
            case Kill():
                self._go_on(assault.after_s)
                frozen = keepers(self._daemon) if assault.frozen_s else []
                with _stopped(frozen):
                    self._go_on(_PILE_UP_S if frozen else 0)
                    self._kill(assault.victim)
                    self._revive(assault.down_s)
                    self._go_on(assault.frozen_s)
            case Stop():
                self._go_on(assault.after_s)
                self._stop(assault)
            case Fault():
                if assault.point not in self._out_of_reach():
                    self._fail(assault)
                    self._revive(assault.down_s)
            case Mishap():
                if assault.what not in self.report.impossible:
                    self._suffer(assault)

    def _kill(self, victim: Victim) -> None:
        self._note_own_end()
        pids = self._pids(victim)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self._daemon.process is not None
        if self._daemon.process.pid in pids:
            self._daemon.process.wait()
        self.report.kills[victim] += 1

    def _pids(self, victim: Victim) -> list[int]:
        daemon = self._daemon
        assert daemon.process is not None
        match victim:
            case Victim.DAEMON:
                return [daemon.process.pid]
            case Victim.KEEPER:
                return keepers(daemon)
            case Victim.BOTH:
                return [daemon.process.pid, *keepers(daemon)]
            case Victim.EVERYTHING:
                # The keeper before its steps, else it sees them killed: their numbers may be lower than its own.
                first = self._pids(Victim.BOTH)
                return [*first, *(process.pid for process in daemon.processes() if process.pid not in first)]

    def _revive(self, down_s: float) -> None:
        """Start the next life where the daemon is dead."""
        if self._is_alive():
            return
        self._go_on(down_s)
        self._daemon.spawn()

    def _stop(self, stop: Stop) -> None:
        with _stopped(self._pids(stop.victim)):
            self._go_on(stop.for_s, cancels=False)
        self.report.stops += 1

    def _suffer(self, mishap: Mishap) -> None:
        """It comes over a daemon that is up, and who is killed meanwhile starts again when it is over: a daemon
        may refuse to start on a full disk."""
        self._wait(self._ready, START_S)
        self._go_on(mishap.after_s)
        if mishap.what is What.HOST_DOWN:
            self._end_life(Victim.EVERYTHING)
            self._host.reboot()
        with self._host.suffering(mishap, self._pids(Victim.BOTH)):
            # A request that waits for this to be over would be waited for by who is to end it.
            cancels = mishap.what in (What.SET_CLOCK, What.SLOW_DISK)
            self._go_on(mishap.for_s / 2, cancels=cancels)
            if mishap.victim is not None:
                self._end_life(mishap.victim)
            elif mishap.what is What.LOST_JOURNAL:
                self._end_life(Victim.KEEPER)
            self._go_on(mishap.for_s / 2, cancels=cancels)
        self._revive(0)
        self.report.mishaps[mishap.what] += 1

    def _fail(self, fault: Fault) -> None:
        """Let the next life die at the point. What the keeper does is known only to one that this life starts."""
        assert self._daemon.process is not None
        is_keepers = fault.point.startswith("keeper.")
        self._note_own_end()
        self._end_life(Victim.BOTH if is_keepers else Victim.DAEMON)
        self._lead_to(fault.point)
        self._heard = self._daemon.log.stat().st_size
        self._daemon.spawn(f"{fault.point}:{fault.count}")
        deadline = time.monotonic() + _FAULT_WITHIN_S
        while time.monotonic() < deadline and not (has_died := self._has_died(is_keepers)):
            self._go_on(_TICK_S)
        if not is_keepers:
            self._note_own_end()
        if has_died:
            self.report.points[fault.point] += 1
        self.report.kills["at a fault point" if has_died else "past a fault point"] += 1
        self._end_life(Victim.BOTH if is_keepers else Victim.DAEMON)

    def _out_of_reach(self) -> frozenset[str]:
        """Fault points that this host cannot be brought to."""
        return frozenset({"executor.booted"} if What.HOST_DOWN in self.report.impossible else ())

    def _lead_to(self, point: str) -> None:
        """Before the life that is to die there: it may need a run of a certain kind, or what is rare."""
        names = {kind.name for kind in self._kinds}
        needed = {SERVED} if point in faults.SERVING_POINTS else names - {SERVED}
        match point:
            case "backup.copied":
                self._errands.back_up_now()
            case "executor.booted":
                self._end_life(Victim.EVERYTHING)
                self._host.reboot()
            case "keeper.compacted":
                _lengthen(self._daemon.state / "keeper" / "journal")
            case _:
                pass
        self._requests.ask_for(needed)
        self._quota = min(self._total_runs, max(self._quota, len(self._requests.asked) + len(needed)))

    def _has_died(self, is_keepers: bool) -> bool:
        assert self._daemon.process is not None
        status = self._daemon.process.poll()
        if not is_keepers:
            return status == -signal.SIGKILL
        with self._daemon.log.open("rb") as journal:
            journal.seek(self._heard)
            return b"keeper.lost" in journal.read() or status is not None

    def _end_life(self, victim: Victim) -> None:
        """Not counted as a kill: the fault point or the mishap is."""
        self._note_own_end()
        for pid in self._pids(victim):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self._daemon.process is not None
        if victim is not Victim.KEEPER:
            self._daemon.process.wait()

    # The workload

    def _go_on(self, for_s: float, *, cancels: bool = True) -> None:
        """Let time pass in which requests are dropped and runs cancelled, whether anybody listens or not."""
        until = time.monotonic() + for_s
        while True:
            self._drop_some()
            if cancels:
                self._cancel_some()
            left_s = until - time.monotonic()
            if left_s <= 0:
                return
            time.sleep(min(_TICK_S, left_s))

    def _drop_some(self) -> None:
        asked = len(self._requests.asked)
        if asked < self._quota and time.monotonic() >= self._drop_at:
            self._drop_at = time.monotonic() + _DROP_EVERY_S
            count = min(self._quota - asked, self._chance.randint(1, _REQUESTS_PER_FILE))
            self._daemon.drop(f"requests-{asked}.yaml", self._requests.more(count))

    def _cancel_some(self) -> None:
        """A request to cancel that was answered must hold: it is not repeated."""
        if time.monotonic() < self._cancel_at or not self._is_alive():
            return
        self._cancel_at = time.monotonic() + _CANCEL_EVERY_S
        for kind in self._kinds:
            if not kind.wants_cancel:
                continue
            for run in runs(self._daemon, workflow=kind.name, state="running", limit=MANY):
                if run.id not in self._cancelled and self._chance.random() < 0.5:
                    with suppress(FusemldError):
                        self._client.post(url("runs", run.id, "cancel"), views.RunView)
                        self._cancelled.add(run.id)

    # The end

    def _wait_until_over(self) -> None:
        unfinished = -1
        deadline = time.monotonic() + _OVER_WITHIN_S
        while time.monotonic() < deadline:
            self._go_on(1.0)
            if not self._ready():
                continue
            summaries = runs(self._daemon, limit=MANY)
            left = self._total_runs - sum(run.finished_at is not None for run in summaries)
            if left <= 0 and len(self._requests.asked) == self._total_runs:
                return
            if left != unfinished:
                unfinished, deadline = left, time.monotonic() + _OVER_WITHIN_S

    def _judge(self) -> None:
        daemon = self._daemon
        self._wait(self._ready, START_S)
        if not self._wait(lambda: not self._served(), _TIDY_WITHIN_S):
            self._violation("wrong", "left over", f"applications and services: {self._served()}")
        self._errands.end()
        found = [self._client.get(url("runs", run.id), views.RunView) for run in runs(daemon, limit=MANY)]
        ledger = read_ledger(self._ledger)
        report = self.report
        report.runs = len(found)
        report.steps = sum(len(run.steps) for run in found)
        attempts = [attempt for run in found for step in run.steps for attempt in step.attempts]
        report.attempts = len(attempts)
        report.started = len(ledger.began)
        report.lost_attempts = sum(attempt.ending is Ending.LOST for attempt in attempts)
        report.no_room = sum(has_no_room(step) for run in found for step in run.steps)
        report.given_up = sum(is_given_up(step) for run in found for step in run.steps if step.attempts)
        report.violations += judge(self._requests.asked, found, ledger)
        report.backups, report.deleted = self._errands.backups, self._errands.deleted
        for problem in self._errands.problems:
            self._violation("wrong", "backup", problem)
        if not self._wait(lambda: not self._leftovers(), _TIDY_WITHIN_S):
            self._violation("wrong", "left over", "; ".join(self._leftovers()))
        daemon.run("fusemld", "stop", "--all")
        if daemon.process is not None:
            daemon.process.wait(timeout=START_S)
        if not self._wait(lambda: not daemon.processes(), _TIDY_WITHIN_S):
            self._violation("wrong", "left over", f"processes after `stop --all`: {daemon.processes()}")
        known = {
            f"{run.id}/{step.name}/{one.number}" for run in found for step in run.steps for one in step.attempts
        }
        for path in left_over(daemon.state, known, named_outputs(daemon.state / "fusemld.db")):
            self._violation("wrong", "left over", path)
        if found_damage := damage(daemon.state / "fusemld.db"):
            self._violation("wrong", "database", found_damage)
        if self._kills >= 2 * len(POINTS):
            for point in set(POINTS) - report.points.keys() - self._out_of_reach():
                self._violation("wrong", point, "no process has died at this fault point")

    def _served(self) -> list[str]:
        """Asked while the last of it is being deleted."""
        applications = self._client.get("/applications", list[views.ApplicationView])
        services = self._client.get("/services", list[views.ServiceView])
        return [*(one.name for one in applications), *(one.name for one in services)]

    def _leftovers(self) -> list[str]:
        folders = [str(path) for path in (self._daemon.state / "attempts").iterdir() if path.is_dir()]
        return [*folders, *(str(process) for process in processes_of_steps(self._daemon))]

    def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not (held := condition()) and time.monotonic() < deadline:
            time.sleep(_TICK_S)
        return held

    def _violation(self, what: str, where: str, text: str) -> None:
        self.report.violations.append(Violation(what=what, where=where, text=text))


def _lengthen(file: Path) -> None:
    """Let a keeper's journal be as long as after many attempts: a few more, and it is written anew."""
    journal = Journal(file)
    journal.open()
    lines = file.read_bytes().count(b"\n")
    journal.add(*(Forgotten(key="none") for _ in range(lines, _LONG_JOURNAL_LINES)))
    journal.commit()
    journal.close()


@contextmanager
def _stopped(pids: Collection[int]) -> Iterator[None]:
    """They do nothing inside the block."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def conduct(folder: Path, kills: int, total_runs: int, seed: int, say: Callable[[str], None]) -> Report:
    """A campaign below the folder, of which nothing runs or is mounted any more afterwards."""
    with nullcontext() if why_no_mounts() else private_mounts(), daemon_of(folder) as daemon:
        return Campaign(daemon, kills, total_runs, seed).conduct(say)


@click.command()
@click.option(
    "--kills", type=click.IntRange(1), default=60, show_default=True, help="How often something is killed"
)
@click.option("--runs", "total_runs", type=click.IntRange(8, 10_000), help=f"[default: {RUNS_PER_KILL} a kill]")
@click.option("--seed", type=int, help="Repeats an earlier campaign  [default: a new one]")
@click.option(
    "--points",
    "lists_points",
    is_flag=True,
    help="List the fault points in the code with the tests that hit them; no more",
)
@click.option(
    "--keep", type=click.Path(path_type=Path), help="A new folder to keep journal, ledger and state (its disk) in"
)
def main(kills: int, total_runs: int | None, seed: int | None, keep: Path | None, lists_points: bool) -> None:
    """Kill the daemon and its keeper under load, and count what was started twice, lost or stuck."""
    if lists_points:
        print("\n".join(points.lines()))
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended on the way
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="fusemld-torture-") as folder:
        report = conduct(
            keep or Path(folder),
            kills,
            total_runs or kills * RUNS_PER_KILL,
            seed,
            lambda line: print(line, flush=True),
        )
    for line in (*report.lines(), *points.table(report.points)):
        print(line)
    sys.exit(1 if report.violations else 0)


if __name__ == "__main__":
    main()
