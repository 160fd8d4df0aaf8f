"""Tells any number of waiters that something changed, without queues that could grow."""

from __future__ import annotations

import anyio


class Pulse:
    """`version` grows with every `fire`; `wait` returns once it differs from what the waiter has seen."""

    def __init__(self) -> None:
        self.version = 0
        self._event: anyio.Event | None = None

    def fire(self) -> None:
        self.version += 1
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self, seen: int) -> int:
        while self.version == seen:
            if self._event is None:
                self._event = anyio.Event()
            await self._event.wait()
        return self.version
