"""Durations as documents write them: `90s`, `15m`, `2h`, `1d`."""

from __future__ import annotations

import re
from typing import Final

DURATION_PATTERN: Final = r"[0-9]{1,9}(\.[0-9]{1,3})?[smhd]"
_DURATION: Final = re.compile(r"(?P<number>[0-9]{1,9}(\.[0-9]{1,3})?)(?P<unit>[smhd])", re.ASCII)
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Seconds. Raises ValueError with a message for people."""
    if (match := _DURATION.fullmatch(text)) is None:
        shown = repr(str(text) if len(text) <= 60 else text[:57] + "...")
        raise ValueError(f"{shown} is not a duration: write a number and s, m, h or d, such as 90s, 15m, 2h or 1d")
    return float(match["number"]) * _SECONDS[match["unit"]]
