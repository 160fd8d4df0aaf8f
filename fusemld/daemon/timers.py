"""One sleeping task for every deadline of every step."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import anyio

from fusemld.daemon.pulse import Pulse

LONGEST_SLEEP_S = 60.0
"""The wall clock may jump: no sleep is longer than this."""


class Timers:
    """Calls `passed(run, step, deadline)` once a deadline set by `add` has passed.

    Deadlines are never taken back: the receiver compares with the deadline that holds now.
    """

    def __init__(self, clock: Callable[[], float], passed: Callable[[str, str, float], None]) -> None:
        self._clock = clock
        self._passed = passed
        self._heap: list[tuple[float, str, str]] = []
        self._earlier = Pulse()

    def add(self, deadline: float, run: str, step: str) -> None:
        heapq.heappush(self._heap, (deadline, run, step))
        if self._heap[0][0] == deadline:
            self._earlier.fire()

    async def run(self) -> None:
        while True:
            seen = self._earlier.version
            now = self._clock()
            while self._heap and self._heap[0][0] <= now:
                deadline, run, step = heapq.heappop(self._heap)
                self._passed(run, step, deadline)
            left = self._heap[0][0] - now if self._heap else LONGEST_SLEEP_S
            with anyio.move_on_after(min(left, LONGEST_SLEEP_S)):
                await self._earlier.wait(seen)
