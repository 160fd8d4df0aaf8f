"""Where requests wait for their turn."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

from fusemld.kube.pace import Pace


class Gate:
    """Lets requests through in the order in which they came, as the pace allows."""

    def __init__(self, pace: Pace, clock: Callable[[], float] = time.monotonic) -> None:
        self.pace = pace
        self._clock = clock
        self._waiting = 0
        self._turn = anyio.Lock(fast_acquire=True)
        self._ended: anyio.Event | None = None
        """Where the first of those who wait sleeps."""

    async def enter(self) -> float:
        """Wait for a place, to be held until `leave`; gives the time of the start."""
        if self._waiting or self._wait_s():
            await self._wait()
        self.pace.started()
        return self._clock()

    def leave(self) -> None:
        self.pace.ended()
        if self._ended is not None:
            self._ended.set()

    def served(self) -> None:
        self.pace.served()

    def refused(self, started_at: float, retry_after_s: float | None) -> None:
        self.pace.refused(started_at=started_at, now=self._clock(), retry_after_s=retry_after_s)

    async def _wait(self) -> None:
        self._waiting += 1
        try:
            async with self._turn:
                while wait_s := self._wait_s():
                    self._ended = anyio.Event()
                    with anyio.move_on_after(wait_s):
                        await self._ended.wait()
        finally:
            self._waiting -= 1

    def _wait_s(self) -> float:
        wait_s = self.pace.wait_s(self._clock())
        return float("inf") if wait_s is None else wait_s
