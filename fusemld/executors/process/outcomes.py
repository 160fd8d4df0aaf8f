"""From the end of a process to the end of an attempt, in words for its user."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path

from fusemld.executors.outputs import missing, refused, signal_name, text
from fusemld.hooks.processes import ProcessEnded
from fusemld.model.run import Ending, Outcome


def diagnose(
    ended: ProcessEnded, outputs: tuple[str, ...], results: Path, *, is_sandboxed: bool, is_short_of_memory: bool
) -> tuple[Outcome, dict[str, str]]:
    """The outcome, and the outputs where it is a success.

    `results` is where the step was told to write; `is_short_of_memory`: the kernel killed something for want
    of memory while the attempt ran.
    """
    ending, message = _ending(ended, is_sandboxed, is_short_of_memory)
    if ended.reached_limit and message:
        message += f"; it had reached {ended.reached_limit}"
    if ending is Ending.SUCCEEDED:
        unwritten = [name for name in outputs if name not in ended.outputs and name not in ended.refused_outputs]
        if ended.refused_outputs:
            ending, message = Ending.OUTPUT_REFUSED, refused(ended.refused_outputs)
        elif unwritten:
            ending, message = Ending.OUTPUT_MISSING, missing(unwritten, results)
    outcome = Outcome(ending=ending, message=message, exit_status=ended.exit_status, tail=ended.tail)
    values = ended.outputs if ending is Ending.SUCCEEDED else {}
    return outcome, {name: text(value) for name, value in values.items()}


def _ending(ended: ProcessEnded, is_sandboxed: bool, is_short_of_memory: bool) -> tuple[Ending, str]:
    status, number, beside = ended.exit_status, ended.signal, ""
    if ended.lost is not None:
        return Ending.LOST, ended.lost
    if ended.never_started is not None:
        return Ending.CANNOT_START, ended.never_started
    if is_sandboxed and status is not None:
        last_line = ended.tail.rpartition("\n")[2]
        if status == 1 and last_line.startswith("bwrap: "):
            return Ending.CANNOT_START, f"cannot start it in its sandbox: {last_line}"
        if signal_name(status - 128):
            # The sandbox's own process reports so how the command ended; so might the command itself.
            number, beside = status - 128, f" (exit status {status})"
            status = None
    if ended.killed:
        how = f"with exit status {status}" if status is not None else f"by {signal_name(number)}"
        return Ending.CANCELLED, f"it was told to stop and ended {how}"
    if number is not None:
        if number == signal.SIGKILL and is_short_of_memory:
            return Ending.OUT_OF_MEMORY, "the kernel killed it (SIGKILL) because memory had run out"
        return Ending.SIGNALLED, f"killed by {signal_name(number) or f'signal {number}'}{beside}"
    if status:
        return Ending.PROGRAM_FAILED, f"exit status {status}"
    return Ending.SUCCEEDED, ""


def oom_kills() -> int:
    """How many processes the kernel has killed on this host for want of memory; -1 where it does not say."""
    try:
        descriptor = os.open("/proc/vmstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        data = os.read(descriptor, 65536)
    finally:
        os.close(descriptor)
    _, found, rest = data.partition(b"\noom_kill ")
    return int(rest.split(b"\n", 1)[0]) if found else -1


class MemoryPressure:
    """`oom_kills` as of a moment ago: asking costs the kernel 0.03 ms, which a short step would notice."""

    _GOOD_FOR_S = 0.5

    def __init__(self) -> None:
        self._kills = -1
        self._read_at = -math.inf

    def kills(self) -> int:
        now = time.monotonic()
        if now - self._read_at > self._GOOD_FOR_S:
            self._kills, self._read_at = oom_kills(), now
        return self._kills
