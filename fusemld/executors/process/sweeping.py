"""Ends what left its group (by a session of its own) and still carries the mark of its key."""

from __future__ import annotations

import contextlib
import time

from fusemld.executors.process.loop import Loop, log
from fusemld.executors.process.spawning import frozen, kill, start_ticks

_EVERY_S = 5.0


class Sweeper:
    """For the processes of one state folder, which its marker tells from others."""

    def __init__(self, loop: Loop, marker: str) -> None:
        self._loop = loop
        self._marker = marker
        self._ended: set[str] = set()

    def sweep(self, keys: set[str]) -> bool:
        """Kill whoever carries the mark of an ended key. False where that has to be tried again."""
        try:
            found = frozen(self._marker, keys)
        except OSError as error:
            log(f"cannot look for processes now: {error}")
            return False
        for pid in found:
            kill(pid)
        return True

    def sweep_later(self, key: str) -> None:
        """With what else ends within a few seconds."""
        if not self._ended:
            self._loop.after(_EVERY_S, self._sweep_ended)
        self._ended.add(key)

    def _sweep_ended(self) -> None:
        if self.sweep(self._ended):
            self._ended = set()
        else:
            self._loop.after(_EVERY_S, self._sweep_ended)


def leave_nothing(marker: str, within_s: float) -> bool:
    """Kill whoever carries the mark until nobody does, or until the time is over: who is killed and still there
    then does nothing any more. False where nobody could look."""
    has_looked = False
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            left = [pid for pid in frozen(marker) if start_ticks(pid)]
            has_looked = True
            if not left:
                break
            for pid in left:
                kill(pid)
        time.sleep(0.005)
    return has_looked
