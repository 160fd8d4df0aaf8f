"""What the daemon costs, as ratios to floors measured in the same run: `just bench`.

Every figure is the median of several rounds; floor and result take turns, so that a drift of the machine's speed
hits both.
"""

from __future__ import annotations

import asyncio
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from tests.acceptance.daemon import BIN, Daemon, daemon_of

ROUNDS = 15
"""Single ones scatter by half where the processors are those of a virtual machine."""
PAUSE_S = 2.0
CHAIN = 100
FAN = 320
AT_ONCE = 32
FILES = 50
RUNS = 1000


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended on the way
    with tempfile.TemporaryDirectory(prefix="fusemld-bench-") as folder, daemon_of(Path(folder)) as daemon:
        daemon.start(LIMITS_STEPS=str(AT_ONCE))
        compare("chain of 100 `true`, per step", 2.0, floor_chain, lambda: run_s(daemon, chain()) / CHAIN)
        compare("32 at once of 320 `true`, per step", 1.5, floor_fan, lambda: run_s(daemon, fan()) / FAN)
        first_effect(daemon)
    with tempfile.TemporaryDirectory(prefix="fusemld-bench-") as folder, daemon_of(Path(folder)) as daemon:
        daemon.start(LIMITS_STEPS="1")
        memory(daemon)
    start_up()


def compare(what: str, goal: float, floor: Callable[[], float], result: Callable[[], float]) -> None:
    floor(), result()
    pairs = [(floor(), result()) for _ in range(ROUNDS)]
    floor_ms, result_ms = (statistics.median(side) * 1000 for side in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"{what}: floor {floor_ms:.2f} ms, fusemld {result_ms:.2f} ms, ratio {ratio:.2f} (goal {goal})")


def floor_chain(count: int = CHAIN) -> float:
    """A bare asyncio loop that spawns and reaps the same command, one after the other. Seconds a command."""

    async def loop() -> float:
        started = time.perf_counter()
        for _ in range(count):
            await (await asyncio.create_subprocess_exec("true")).wait()
        return (time.perf_counter() - started) / count

    return asyncio.run(loop())


def floor_fan(count: int = FAN) -> float:
    """The same with 32 at once."""

    async def loop() -> float:
        places = asyncio.Semaphore(AT_ONCE)

        async def one() -> None:
            async with places:
                await (await asyncio.create_subprocess_exec("true")).wait()

        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(one())
        return (time.perf_counter() - started) / count

    return asyncio.run(loop())


def chain(count: int = CHAIN) -> str:
    return "".join(f"  - name: s{number}\n    image: host\n    command: ['true']\n" for number in range(count))


def fan(count: int = FAN) -> str:
    step = "  - name: s{}\n    image: host\n    command: ['true']\n    needs: []\n"
    return "".join(step.format(number) for number in range(count))


def run_s(daemon: Daemon, steps: str) -> float:
    """How long a run of these steps takes, from its creation to its end as the daemon recorded them."""
    name = f"bench-{time.monotonic_ns()}"
    daemon.drop(f"{name}.yaml", f"name: {name}\nsteps:\n{steps}")
    time.sleep(PAUSE_S)  # asking costs processor time, which the steps need
    view = daemon.finished(daemon.run_of(f"{name}.yaml"))
    assert view["state"] == "succeeded", view["message"]
    (daemon.folder / f"{name}.yaml").unlink()
    return span_s(view)


def span_s(view: dict[str, Any]) -> float:
    """From the start of a run's first step to the end of its last. Its times do not sort as texts: those of a full
    second have no decimals."""
    first = min(seconds(step["started_at"]) for step in view["steps"])
    last = max(seconds(step["finished_at"]) for step in view["steps"])
    return last - first


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def first_effect(daemon: Daemon) -> None:
    """From the close of a file to the first instruction of its first process."""
    delays = []
    for number in range(FILES):
        stamp = daemon.base / f"stamp-{number}"
        text = (
            f"name: stamp-{number}\nsteps:\n  - name: only\n    image: host\n"
            f"    command: [sh, -c, 'date +%s.%N > {stamp}.part; mv {stamp}.part {stamp}']\n"
        )
        with (daemon.folder / f"stamp-{number}.yaml").open("w") as file:
            file.write(text)
        closed = time.time()
        while not stamp.exists():
            time.sleep(0.002)
        delays.append((float(stamp.read_text()) - closed) * 1000)
    delays.sort()
    print(
        f"from a file's close to its first process: median {statistics.median(delays):.0f} ms, "
        f"p99 {delays[-1 - FILES // 100]:.0f} ms (goal 150)"
    )


def memory(daemon: Daemon) -> None:
    """Resident memory of the daemon per unfinished run of five steps."""
    assert daemon.process is not None
    process = psutil.Process(daemon.process.pid)
    steps = "".join(f"  - name: s{i}\n    image: host\n    command: [sleep, '1000']\n" for i in range(5))
    daemon.drop("five.yaml", f"name: five\ninputs: [{{name: number}}]\nsteps:\n{steps}")
    daemon.wait_for(lambda: daemon.json("workflow", "list"), 10, "the workflow")
    before = process.memory_info().rss
    requests = (f"workflow: five\ninputs: {{number: '{number}'}}\n" for number in range(RUNS))
    daemon.drop("requests.yaml", "---\n".join(requests))
    daemon.wait_for(lambda: len(daemon.json("runs", "--limit", str(RUNS))) == RUNS, 120, "all runs")
    time.sleep(1)
    grown = process.memory_info().rss - before
    print(
        f"memory: {before / 2**20:.0f} MiB idle, {grown / RUNS / 1024:.1f} KiB per unfinished run of 5 steps, "
        f"so {(before + grown * 10_000 / RUNS) / 2**20:.0f} MiB with 10,000 (goal 300)"
    )
    daemon.kill()
    started = time.perf_counter()
    daemon.start()
    print(f"restart to the first answer with {RUNS} unfinished runs: {time.perf_counter() - started:.2f} s")


def start_up() -> None:
    def timed(*command: str) -> float:
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - started

    bare = statistics.median(timed(sys.executable, "-c", "pass") for _ in range(10))
    version = statistics.median(timed(str(BIN / "fuseml"), "version") for _ in range(10))
    print(f"fuseml version: {version * 1000:.0f} ms, a bare interpreter {bare * 1000:.0f} ms (goal 150)")
    with tempfile.TemporaryDirectory(prefix="fusemld-bench-") as folder, daemon_of(Path(folder)) as daemon:
        started = time.perf_counter()
        daemon.start()
        print(f"daemon: {time.perf_counter() - started:.2f} s from nothing to the first answer")


if __name__ == "__main__":
    main()
