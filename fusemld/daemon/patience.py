"""Trying again what is out of reach now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeVar

import anyio

from fusemld.hooks.environments import Note
from fusemld.model.backoff import backoff_s
from fusemld.model.errors import UnavailableError, may_pass

T = TypeVar("T")

FIRST_S = 0.5
LONGEST_S = 60.0


async def patiently(
    action: Callable[[], Awaitable[T]], note: Note, *, may_wait: Callable[[float], bool] = lambda _: True
) -> T:
    """Repeat the action, with growing pauses, as long as it raises `UnavailableError` (or `OSError` for want of
    something that comes back) and the caller is not cancelled. `note` hears why, and at what time of this host it
    is tried again. `may_wait` is asked about each pause (in seconds): where it says no, the error is raised."""
    tries = 0
    while True:
        try:
            return await action()
        except (UnavailableError, OSError) as error:
            if isinstance(error, OSError) and not may_pass(error):
                raise
            tries += 1
            pause_s = backoff_s(tries, FIRST_S, LONGEST_S)
            if not may_wait(pause_s):
                raise
            again_at = datetime.now().astimezone() + timedelta(seconds=pause_s)
            note(f"{error}; trying again at {again_at:%H:%M:%S}")
        await anyio.sleep(pause_s)
