"""What a step costs elsewhere: the workloads of `tests.bench.daemon` in peers, measured in the same run.

`just bench-peers`: a chain and a fan-out of 100 steps of `true`, from the first step to the last one recorded as
each peer records it (see its script). Imports, and servers that must be started first, are not counted. Every peer
has an environment of its own below `.bench`; all take turns, and the figures are medians of the rounds.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tests.acceptance.daemon import BIN, daemon_of
from tests.bench.daemon import chain, fan, floor_chain, floor_fan, run_s

PEERS = {
    "doit": "doit==0.37.0",
    "luigi": "luigi==3.8.1",
    "snakemake": "snakemake==9.27.1",
    "dagster": "dagster==1.13.29",
    "prefect": "prefect==3.9.1",
}
SHAPES = ("chain", "fan")
COUNT = 100
ROUNDS = 3
PEER_S = 300.0
HOME = Path(".bench/peers")

Measure = Callable[[str], float]
"""Seconds for one run of the shape. Raises `FailureError`."""


class FailureError(Exception):
    """cannot measure: why"""


class Result(msgspec.Struct, kw_only=True):
    """Seconds of every round for every shape, or why there are none."""

    seconds: dict[str, list[float]] = msgspec.field(default_factory=lambda: {shape: [] for shape in SHAPES})
    failure: str = ""


def main() -> int:
    with fusemld() as own:
        measures: dict[str, Measure] = {"bare loop": floor, "fusemld": own}
        results = {name: Result() for name in (*measures, *PEERS)}
        for name, requirement in PEERS.items():
            try:
                measures[name] = peer(name, environment(name, requirement))
            except FailureError as error:
                results[name].failure = str(error)
        for number in range(ROUNDS):
            for name, measure in measures.items():
                take(results[name], measure)
            print(f"round {number + 1} of {ROUNDS}", file=sys.stderr, flush=True)
    print("\n".join(table(results, {"fusemld": "fusemld", **PEERS})))
    return 1 if any(result.failure for result in results.values()) else 0


def take(result: Result, measure: Measure) -> None:
    """One peer that fails stops no other."""
    try:
        for shape in SHAPES:
            if not result.failure:
                result.seconds[shape].append(measure(shape))
    except FailureError as error:
        result.failure = str(error)


def table(results: Mapping[str, Result], versions: Mapping[str, str]) -> Iterator[str]:
    """A line for everybody: milliseconds a step, and the median ratio to the first in the same round."""
    floor, *_ = results.values()
    yield f"{'ms a step (ratio to the bare loop)':34}" + "".join(
        f"{shape + f' of {COUNT}':>20}" for shape in SHAPES
    )
    for name, result in results.items():
        title = versions.get(name, name)
        if result.failure:
            yield f"{title:34}  cannot be measured: {result.failure}"
            continue
        yield f"{title:34}" + "".join(
            f"{figure(result.seconds[shape], floor.seconds[shape]):>20}" for shape in SHAPES
        )


def figure(seconds: Sequence[float], floor: Sequence[float]) -> str:
    each_ms = statistics.median(seconds) / COUNT * 1000
    ratio = statistics.median(one / least for one, least in zip(seconds, floor, strict=True))
    return f"{each_ms:.2f} ({ratio:.1f})"


def floor(shape: str) -> float:
    return (floor_chain(COUNT) if shape == "chain" else floor_fan(COUNT)) * COUNT


@contextmanager
def fusemld() -> Iterator[Measure]:
    """The daemon as it is without settings, but for the steps at once. A step is recorded when it is committed."""
    with tempfile.TemporaryDirectory(prefix="fusemld-bench-") as folder, daemon_of(Path(folder)) as daemon:
        daemon.start(LIMITS_STEPS="32")
        run_s(daemon, chain(COUNT))
        yield lambda shape: run_s(daemon, chain(COUNT) if shape == "chain" else fan(COUNT))


def environment(name: str, requirement: str) -> Path:
    """The interpreter of the peer's environment, which is built where there is none of this version."""
    folder = HOME / requirement.replace("==", "-")
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        commands: tuple[tuple[str, ...], ...] = (
            ("venv", "--quiet", "--clear", "--python", sys.executable, str(folder)),
            ("pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), requirement),
        )
        for arguments in commands:
            done = subprocess.run([str(BIN / "uv"), *arguments], check=False, capture_output=True, text=True)
            if done.returncode:
                raise FailureError(last_line(done.stderr) or f"uv {arguments[0]}: exit status {done.returncode}")
        (folder / "complete").touch()
    return python.absolute()


def peer(name: str, python: Path) -> Measure:
    script = Path(__file__).with_name(f"{name}_steps.py")

    def measure(shape: str) -> float:
        variables = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        with tempfile.TemporaryDirectory(prefix="fusemld-bench-") as folder:
            command = [str(python), str(script), shape, str(COUNT), folder]
            try:
                done = subprocess.run(
                    command,
                    env=variables | {"HOME": folder},
                    check=False,
                    capture_output=True,
                    text=True,
                    timeout=PEER_S,
                )
            except subprocess.TimeoutExpired:
                raise FailureError(f"its {shape} was not over after {PEER_S:.0f} s") from None
        if done.returncode:
            raise FailureError(last_line(done.stderr) or f"exit status {done.returncode}")
        return float(last_line(done.stdout))

    return measure


def last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


if __name__ == "__main__":
    sys.exit(main())
