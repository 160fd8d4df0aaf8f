"""What bad neighbours cost the others: `just bench-neighbours`.

The pace of a chain of `true`, alone and beside each neighbour, in turns in the same run. What shares two
processors and a disk with somebody slows down anyway. So the first neighbours are good ones, for the others to be
held against: one that only computes, a chain like the one that is measured, and one whose steps do what those of
`outputs` do and hand nothing over.
"""

from __future__ import annotations

import itertools
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from fusemld.executors.process import groups, user_limit
from tests.acceptance import bomb
from tests.acceptance.daemon import Daemon, daemon_of
from tests.bench.daemon import seconds

ROUNDS = 3
CHAIN = 100
TOGETHER = 10
PAUSE_S = 1.0
SETTLE_S = 1.5
"""A neighbour may fill its queues before it is looked at."""
AT_ONCE = 8
STEPS = 10_000
REWRITES_S = 0.01
MIB = 1024**2

Neighbour = Callable[[Daemon, str], AbstractContextManager[None]]


def main(only: list[str]) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended on the way
    print(f"a chain of {CHAIN} `true`, ms a step (median of tens, p99), alone and beside, in turns")
    for neighbour in NEIGHBOURS:
        name = neighbour.__name__
        if not only or name in only:
            compare(neighbour)


def compare(neighbour: Neighbour) -> None:
    alone: list[list[float]] = []
    beside: list[list[float]] = []
    with tempfile.TemporaryDirectory(prefix="fusemld-bench-") as folder, daemon_of(Path(folder)) as daemon:
        daemon.start(LIMITS_STEPS=str(AT_ONCE), PROCESS_STEP_PROCESSES="256", STEPS_GRACE_S="0.2")
        paces(daemon)
        for number in range(ROUNDS):
            alone.append(paces(daemon))
            with neighbour(daemon, f"{neighbour.__name__}-{number}"):
                time.sleep(SETTLE_S)
                beside.append(paces(daemon))
    shown = [(middle(side), high(side)) for side in (alone, beside)]
    ratio = statistics.median(middle([b]) / middle([a]) for a, b in zip(alone, beside, strict=True))
    print(
        f"{neighbour.__name__:>9}: alone {shown[0][0]:.2f} ({shown[0][1]:.2f}), beside {shown[1][0]:.2f} "
        f"({shown[1][1]:.2f}), ratio {ratio:.2f}, of p99 {shown[1][1] / shown[0][1]:.2f}   {neighbour.__doc__}",
        flush=True,
    )


def middle(rounds: list[list[float]]) -> float:
    """Of ten steps together: the API's times are of whole milliseconds, and a step takes two."""
    return statistics.median(
        statistics.mean(each[start : start + TOGETHER])
        for each in rounds
        for start in range(0, len(each), TOGETHER)
    )


def high(rounds: list[list[float]]) -> float:
    return sorted(pace for each in rounds for pace in each)[-1 - len(rounds) * CHAIN // 100]


def paces(daemon: Daemon) -> list[float]:
    """From the end of one step to the end of the next, in milliseconds."""
    name = f"good-{time.monotonic_ns()}"
    steps = "".join(f"  - {{name: s{number}, image: host, command: ['true']}}\n" for number in range(CHAIN))
    daemon.drop(f"{name}.yaml", f"name: {name}\nsteps:\n{steps}")
    time.sleep(PAUSE_S)  # asking costs processor time, which the steps need
    view = daemon.finished(daemon.run_of(f"{name}.yaml", 60), 120)
    assert view["state"] == "succeeded", view["message"]
    (daemon.folder / f"{name}.yaml").unlink()
    ends = [seconds(step["finished_at"]) for step in view["steps"]]
    return [(b - a) * 1000 for a, b in itertools.pairwise(ends)]


@contextmanager
def workflow(daemon: Daemon, name: str, steps: str) -> Iterator[None]:
    daemon.drop(f"{name}.yaml", f"name: {name}\nsteps:\n{steps}")
    run = daemon.run_of(f"{name}.yaml", 60)
    try:
        yield
    finally:
        daemon.run("fuseml", "cancel", run, check=False)
        daemon.finished(run, 120)
        (daemon.folder / f"{name}.yaml").unlink()


def computes(daemon: Daemon, name: str) -> AbstractContextManager[None]:
    """one step that computes on one processor"""
    return workflow(daemon, name, "  - {name: s, image: host, command: [sh, -c, 'while :; do :; done']}\n")


def chains(daemon: Daemon, name: str) -> AbstractContextManager[None]:
    """another chain of `true`"""
    step = "image: host, command: ['true']}\n"
    return workflow(daemon, name, "".join(f"  - {{name: s{number}, {step}" for number in range(2000)))


def writes(daemon: Daemon, name: str) -> AbstractContextManager[None]:
    """steps one after the other that write four files of 1 MiB each"""
    return hands_over(daemon, name, 0)


def floods(daemon: Daemon, name: str) -> AbstractContextManager[None]:
    """one step that prints as fast as it is read"""
    return workflow(daemon, name, "  - {name: s, image: host, command: ['yes', 'a line of some length']}\n")


def many(daemon: Daemon, name: str) -> AbstractContextManager[None]:
    """a workflow of 10,000 steps side by side, each `sleep 0.05`, as many as there are slots less one"""
    step = "  - {{name: s{}, image: host, command: [sleep, '0.05'], needs: [{}]}}\n"
    rows = AT_ONCE - 1
    return workflow(
        daemon, name, "".join(step.format(n, f"s{n - rows}" if n >= rows else "") for n in range(STEPS))
    )


def outputs(daemon: Daemon, name: str) -> AbstractContextManager[None]:
    """the same as outputs"""
    return hands_over(daemon, name, 4)


def hands_over(daemon: Daemon, name: str, count: int) -> AbstractContextManager[None]:
    """Of four files that are written, so many are outputs."""
    declared = ", ".join(f"{{name: o{number}}}" for number in range(count))
    place = "$FUSEML_RESULTS_DIR" if count else "$TMPDIR"
    script = f"for o in o0 o1 o2 o3; do yes o | head -c {MIB} > {place}/$o; done"
    step = f"image: host, command: [sh, -c, '{script}'], outputs: [{declared}]}}\n"
    return workflow(daemon, name, "".join(f"  - {{name: s{number}, {step}" for number in range(300)))


def forks(daemon: Daemon, name: str) -> AbstractContextManager[None]:
    """one step that forks without end, held to 256 processes"""
    assert groups.find() is not None or user_limit.holds(), "nothing would hold it"
    return workflow(daemon, name, f"  - {{name: s, image: host, command: [{sys.executable}, {bomb.__file__}]}}\n")


def rewrites(daemon: Daemon, name: str) -> AbstractContextManager[None]:
    """one file that is written anew a hundred times a second"""
    return rewritten(daemon, name, 1)


def bloats(daemon: Daemon, name: str) -> AbstractContextManager[None]:
    """the same with 3,000 steps in the file"""
    return rewritten(daemon, name, 3000)


@contextmanager
def rewritten(daemon: Daemon, name: str, size: int) -> Iterator[None]:
    over = threading.Event()
    file = daemon.folder / f"{name}.yaml"
    steps = "steps:\n" + "".join(f"- {{name: s{number}, image: host}}\n" for number in range(size))

    def rewrite() -> None:
        number = 0
        while not over.wait(REWRITES_S):
            number += 1
            file.write_text(f"name: {name}\ndescription: '{number}'\ninputs: [{{name: x}}]\n{steps}")

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        yield
    finally:
        over.set()
        writer.join()
        file.unlink()


NEIGHBOURS: tuple[Neighbour, ...] = (computes, chains, writes, floods, many, outputs, forks, rewrites, bloats)


if __name__ == "__main__":
    main(sys.argv[1:])
