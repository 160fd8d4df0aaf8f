"""Where requests wait for their turn."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio

from fusemld.kube.pace import Pace


class Gate:
    """Lets requests through in the order in which they came, as the pace allows."""

    def __init__(self, pace: Pace, clock: Callable[[], float] = anyio.current_time) -> None:
        self.pace = pace
        self._clock = clock
        self._turn = anyio.Lock(fast_acquire=True)
        self._ended = anyio.Event()

    @asynccontextmanager
    async def passing(self) -> AsyncGenerator[float]:
        """Holds one place; gives the time of the start."""
        async with self._turn:
            while wait_s := self._wait_s():
                with anyio.move_on_after(wait_s):
                    await self._ended.wait()
            self.pace.started()
        try:
            yield self._clock()
        finally:
            self.pace.ended()
            self._ended.set()
            self._ended = anyio.Event()

    def served(self) -> None:
        self.pace.served()

    def refused(self, started_at: float, retry_after_s: float | None) -> None:
        self.pace.refused(started_at=started_at, now=self._clock(), retry_after_s=retry_after_s)

    def _wait_s(self) -> float:
        wait_s = self.pace.wait_s(self._clock())
        return float("inf") if wait_s is None else wait_s
