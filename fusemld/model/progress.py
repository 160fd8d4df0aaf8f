"""Whether a task that never ends gets on, for who watches it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Progress:
    """`doing` is what the task is at, in words, empty while it waits; `due_at` is when it has to get on or was to
    (`time.monotonic`), infinite while nobody expects that."""

    __slots__ = ("_clock", "doing", "due_at")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.doing = ""
        self.due_at = math.inf

    def work(self, doing: str) -> None:
        """It has got on, and now does this."""
        self.doing, self.due_at = doing, self._clock()

    def step(self) -> None:
        """It has got on with what it does, if it does anything."""
        if self.doing:
            self.due_at = self._clock()

    def rest(self, for_s: float = math.inf) -> None:
        """It has nothing to do before that."""
        self.doing, self.due_at = "", self._clock() + for_s
