"""One sleeping task for the deadlines of all steps."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import anyio

from fusemld.daemon.pulse import Pulse

LONGEST_SLEEP_S = 60.0
"""The wall clock may jump: no sleep is longer than this."""
STALE_ALLOWED = 1000


class Timers:
    """Calls `passed(run, step)` once the deadline that `set` gave the step last has passed, and `woke` whenever it
    should have, or a minute is over: where nothing has passed then, the clock was set."""

    def __init__(
        self,
        clock: Callable[[], float],
        passed: Callable[[str, str], None],
        woke: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._passed = passed
        self._woke = woke
        self._deadlines: dict[tuple[str, str], float] = {}
        # Entries that `_deadlines` does not know any more are stale: dropped when they come up or are too many.
        self._heap: list[tuple[float, str, str]] = []
        self._earlier = Pulse()

    def __len__(self) -> int:
        """How many deadlines are set."""
        return len(self._deadlines)

    def set(self, run: str, step: str, deadline: float | None) -> None:
        """In the place of the step's deadline so far; None: it has none any more."""
        key = (run, step)
        if deadline is None:
            self._deadlines.pop(key, None)
        elif self._deadlines.get(key) != deadline:
            self._deadlines[key] = deadline
            heapq.heappush(self._heap, (deadline, run, step))
            if self._heap[0][0] == deadline:
                self._earlier.fire()
        if len(self._heap) > 2 * len(self._deadlines) + STALE_ALLOWED:
            self._heap = [(deadline, *key) for key, deadline in self._deadlines.items()]
            heapq.heapify(self._heap)

    async def run(self) -> None:
        while True:
            seen = self._earlier.version
            now = self._clock()
            while self._heap and self._heap[0][0] <= now:
                deadline, run, step = heapq.heappop(self._heap)
                if self._deadlines.get((run, step)) == deadline:
                    del self._deadlines[run, step]
                    self._passed(run, step)
            left = self._heap[0][0] - now if self._heap else LONGEST_SLEEP_S
            with anyio.move_on_after(min(left, LONGEST_SLEEP_S)) as sleep:
                await self._earlier.wait(seen)
            if sleep.cancelled_caught:
                self._woke()
