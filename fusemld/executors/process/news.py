"""What the keeper has to tell, and when."""

from __future__ import annotations

from collections.abc import Sequence

from fusemld.executors.process.wire import ProcessEvent
from fusemld.hooks.processes import ProcessEnded

MOMENT_S = 0.002


class News:
    """What has just started is told a moment later: where it is short it is over by then, and the journal, the
    socket and the daemon, on whose processor it may run, are busy with it once. An end is told at once.

    Pure: `now` (seconds, monotonic) comes in.
    """

    def __init__(self) -> None:
        self._untold: list[ProcessEvent] = []
        self._since = 0.0

    def add(self, event: ProcessEvent, now: float) -> None:
        if not self._untold:
            self._since = now
        self._untold.append(event)

    def wait_s(self, now: float) -> float:
        """Seconds until it is to be told; 0 also where there is nothing."""
        if not self._untold or any(isinstance(event, ProcessEnded) for event in self._untold):
            return 0.0
        return max(0.0, self._since + MOMENT_S - now)

    def take(self) -> Sequence[ProcessEvent]:
        """All of it, in order: it is told now."""
        untold, self._untold = self._untold, []
        return untold
