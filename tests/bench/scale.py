"""What much of everything costs: `just bench` runs it after `tests.bench.daemon`.

The cost of a step in small and large workflows, and beside few and many unfinished runs; what 10,000 unfinished
runs take in memory, and how long the daemon then needs from its start to `ready`. The bare loop is measured beside
every figure, so that a drift of the machine's speed does not look like growth.
"""

from __future__ import annotations

import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from fusemld.api import views
from fusemld.api.client import Client
from tests.acceptance.daemon import Daemon, daemon_of, runs
from tests.bench.daemon import chain, fan, floor_chain, floor_fan, span_s
from tests.bench.restart import ready

AT_ONCE = "32"
UNFINISHED = (10, 1_000, 10_000)
SIZES = (10, 1_000, 10_000)
CHAIN = 100
ROUNDS = 5
PER_FILE = 1_000
ASKED_EVERY_S = 0.5
OVER_S = 600.0
IDLE = "name: idle\ninputs: [{name: number}]\nsteps: [{name: s, image: host, command: [sleep, '100000']}]\n"


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended on the way
    with tempfile.TemporaryDirectory(prefix="fusemld-bench-") as folder, daemon_of(Path(folder)) as daemon:
        daemon.start(LIMITS_STEPS="100", LIMITS_STEPS_PER_WORKFLOW=AT_ONCE)
        by_size(daemon)
    with tempfile.TemporaryDirectory(prefix="fusemld-bench-") as folder, daemon_of(Path(folder)) as daemon:
        daemon.start(LIMITS_STEPS="100", LIMITS_STEPS_PER_WORKFLOW=AT_ONCE)
        by_unfinished(daemon)
        memory(daemon)
        restart(daemon)


def by_size(daemon: Daemon) -> None:
    for shape, steps, floor in (("chain", chain, floor_chain), ("wide", fan, floor_fan)):
        ratios = {}
        for count in SIZES:
            repeats = max(1, ROUNDS * 20 // count)
            ratios[count], each_ms = cost(
                lambda steps=steps, count=count: step_s(daemon, steps(count)),  # type: ignore[misc]
                lambda floor=floor: floor(200),  # type: ignore[misc]
                repeats,
            )
            print(f"{shape} of {count}: {each_ms:.2f} ms a step, {ratios[count]:.2f} times the bare loop")
        growth = ratios[SIZES[-1]] / ratios[SIZES[0]]
        print(f"{shape}: a step of {SIZES[-1]} costs {growth:.2f} times one of {SIZES[0]} (goal 1.0)")


def by_unfinished(daemon: Daemon) -> None:
    daemon.drop("idle.yaml", IDLE)
    ratios = {}
    there = 0
    for count in UNFINISHED:
        there = add_unfinished(daemon, there, count)
        ratios[count], each_ms = cost(lambda: step_s(daemon, chain(CHAIN)), lambda: floor_chain(200), ROUNDS)
        print(
            f"chain of {CHAIN} beside {count} unfinished runs: {each_ms:.2f} ms a step, "
            f"{ratios[count]:.2f} times the bare loop"
        )
    growth = ratios[UNFINISHED[-1]] / ratios[UNFINISHED[0]]
    print(f"beside {UNFINISHED[-1]} unfinished runs a step costs {growth:.2f} times that beside 10 (goal 1.0)")


def memory(daemon: Daemon) -> None:
    assert daemon.process is not None
    resident = psutil.Process(daemon.process.pid).memory_info().rss
    print(f"resident with {UNFINISHED[-1]} unfinished runs: {resident / 2**20:.0f} MiB (goal 300)")


def restart(daemon: Daemon) -> None:
    for _ in range(3):
        daemon.kill()
        print(f"restart to ready with {UNFINISHED[-1]} unfinished runs: {ready(daemon)} (goal 2 s)")


def cost(result: Callable[[], float], floor: Callable[[], float], rounds: int) -> tuple[float, float]:
    """The median ratio of the rounds, and the median result in milliseconds."""
    pairs = [(floor(), result()) for _ in range(rounds)]
    return statistics.median(b / a for a, b in pairs), statistics.median(b for _, b in pairs) * 1000


def add_unfinished(daemon: Daemon, there: int, wanted: int) -> int:
    for first in range(there, wanted, PER_FILE):
        numbers = range(first, min(wanted, first + PER_FILE))
        requests = (f"workflow: idle\ninputs: {{number: '{number}'}}\n" for number in numbers)
        daemon.drop(f"idle-{first}.yaml", "---\n".join(requests))
    client = Client(daemon.socket)
    daemon.wait_for(
        lambda: client.get("/health", views.HealthView).runs_active == wanted, OVER_S, f"{wanted} unfinished runs"
    )
    time.sleep(2)  # what was created is settled
    return wanted


def step_s(daemon: Daemon, steps: str) -> float:
    """How long a step of a run of these steps takes, from the first's start to the last's end as recorded."""
    name = f"scale-{time.monotonic_ns()}"
    daemon.drop(f"{name}.yaml", f"name: {name}\nsteps:\n{steps}")

    def over() -> list[views.RunSummary]:
        time.sleep(ASKED_EVERY_S)  # asking costs processor time, which the steps need
        return [run for run in runs(daemon, workflow=name) if run.finished_at is not None]

    (run,) = daemon.wait_for(over, OVER_S, f"the end of {name}")
    view = daemon.json("get", run.id)
    assert view["state"] == "succeeded", view["message"]
    (daemon.folder / f"{name}.yaml").unlink()
    return span_s(view) / len(view["steps"])


if __name__ == "__main__":
    main()
