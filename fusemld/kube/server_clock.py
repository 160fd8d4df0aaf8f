"""What time it is for the API server."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

_HEAR_EVERY_S = 10.0
_AS_GOOD_AS_OURS_S = 2.0
"""`Date` says whole seconds, and answers take a moment."""


class ServerClock:
    """By the `Date` of its answers. Where that is ours but for a moment, or was not said, it is our clock; where
    ours is wrong or is set, it goes on from the last answer."""

    def __init__(
        self, clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._heard: tuple[float, float] | None = None
        """Its time, and ours that cannot be set."""

    def hear(self, date: str | None) -> None:
        """An answer has come with this header."""
        now = self._monotonic()
        if date is None or (self._heard is not None and now - self._heard[1] < _HEAR_EVERY_S):
            return
        try:
            self._heard = parsedate_to_datetime(date).timestamp(), now
        except ValueError:
            return

    def now(self) -> float:
        """Seconds since the epoch."""
        ours = self._clock()
        if self._heard is None:
            return ours
        at, heard_at = self._heard
        theirs = at + self._monotonic() - heard_at
        return ours if abs(theirs - ours) <= _AS_GOOD_AS_OURS_S else theirs
