"""The wall clock, and by how much somebody has set it: what was to happen in an hour still happens in an hour."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from fusemld.store.changes import PutMeta
from fusemld.store.keys import CLOCK

SET_S = 2.0
"""A smaller difference is not worth a word: clocks are slewed all the time."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """By how much the wall clock was ahead of the kernel's, which nobody sets and which ends with its boot."""

    boot: str
    ahead_s: float


def since_boot_s() -> float:
    """Also while the host sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class WallClock:
    """Seconds since the epoch. `known` is the `record` of an earlier daemon, if there was one: within a boot the
    clock cannot be set unnoticed, whether a daemon was there or not."""

    def __init__(
        self,
        boot: str,
        known: str | None,
        *,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = since_boot_s,
    ) -> None:
        self._boot = boot
        self._wall = wall
        self._steady = steady
        before = None if known is None else msgspec.json.decode(known, type=Reading)
        self._ahead_s = wall() - steady() if before is None or before.boot != boot else before.ahead_s

    def __call__(self) -> float:
        return self._wall()

    def read(self) -> tuple[float, float]:
        """What it shows, and by how much it was set since the last call, backwards if negative. What is measured
        against what follows from the call has to use this reading: it may be set again at once."""
        now = self._wall()
        ahead_s = now - self._steady()
        by_s = ahead_s - self._ahead_s
        if abs(by_s) < SET_S:
            return now, 0.0
        self._ahead_s = ahead_s
        return now, by_s

    def record(self) -> PutMeta:
        """To be stored together with what was made of `read`."""
        reading = Reading(boot=self._boot, ahead_s=self._ahead_s)
        return PutMeta(CLOCK, msgspec.json.encode(reading).decode())
