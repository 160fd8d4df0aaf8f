"""What every executor says about outputs and signals."""

from __future__ import annotations

import codecs
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

OUTPUT_LIMIT_BYTES = 1024 * 1024
"""Of one output."""
ALL_OUTPUTS_LIMIT_BYTES = 64 * 1024 * 1024
"""Of all outputs of one attempt together: its end is handed over, and held in memory, as one."""
_AT_ONCE_BYTES = 64 * 1024
RESULTS = Path("/tekton/results")
"""Where steps write their outputs."""


def text(value: bytes) -> str:
    """Any bytes, as Python passes them to environments (surrogateescape), without trailing newlines. Of what is
    long a part at a time, so that other threads get on meanwhile."""
    value = value.rstrip(b"\r\n")
    if len(value) <= _AT_ONCE_BYTES:
        return value.decode("utf-8", "surrogateescape")
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    parts = []
    for start in range(0, len(value), _AT_ONCE_BYTES):
        time.sleep(0)
        parts.append(decoder.decode(value[start : start + _AT_ONCE_BYTES]))
    return "".join(parts) + decoder.decode(b"", final=True)


def missing(names: Iterable[str], results: Path = RESULTS) -> str:
    """`results` is where the step was told to write."""
    wanted = list(names)
    places = ", ".join(str(results / name) for name in wanted)
    what = f"output {wanted[0]}" if len(wanted) == 1 else f"outputs {', '.join(wanted)}"
    return f"it ended well but did not write its {what}: expected in {places}"


def refused(reasons: Mapping[str, str]) -> str:
    """Reasons by the names of the outputs."""
    return "; ".join(f"output {name} is refused: {reason}" for name, reason in sorted(reasons.items()))


def too_large_together(limit_bytes: int) -> str:
    """Why an output is refused that goes, with those before it, beyond what all of them may have."""
    return f"with it, the outputs have more than the {limit_bytes} bytes together that are allowed"


def within(outputs: Mapping[str, bytes], limit_bytes: int) -> tuple[dict[str, bytes], dict[str, str]]:
    """The first outputs that have no more than so many bytes together, and why the next one is refused."""
    taken: dict[str, bytes] = {}
    left_bytes = limit_bytes
    for name, value in outputs.items():
        left_bytes -= len(value)
        if left_bytes < 0:
            return taken, {name: too_large_together(limit_bytes)}
        taken[name] = value
    return taken, {}


def signal_name(number: int | None) -> str:
    """`SIGTERM`; empty where there is no such signal."""
    try:
        return signal.Signals(number).name if number else ""
    except ValueError:
        return ""
