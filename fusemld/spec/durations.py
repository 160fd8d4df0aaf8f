"""Durations as documents write them: `90s`, `15m`, `2h`, `1d`."""

from __future__ import annotations

import re
from typing import Final

LONGEST_DAYS: Final = 3650
LONGEST_S: Final = LONGEST_DAYS * 86400.0
"""What is longer is a slip of the pen: nothing that waits so long has a deadline worth the name, and a few digits
more lead beyond the years that a date can have."""
DURATION_PATTERN: Final = r"[0-9]{1,9}(\.[0-9]{1,3})?[smhd]"
_DURATION: Final = re.compile(r"(?P<number>[0-9]{1,9}(\.[0-9]{1,3})?)(?P<unit>[smhd])", re.ASCII)
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Seconds, at most `LONGEST_S`. Raises ValueError with a message for people."""
    if (match := _DURATION.fullmatch(text)) is None:
        shown = repr(str(text) if len(text) <= 60 else text[:57] + "...")
        raise ValueError(f"{shown} is not a duration: write a number and s, m, h or d, such as 90s, 15m, 2h or 1d")
    seconds = float(match["number"]) * _SECONDS[match["unit"]]
    if seconds > LONGEST_S:
        raise ValueError(f"{str(text)!r} is too long a duration: the longest is {LONGEST_DAYS}d, ten years")
    return seconds
