"""Trying again what is out of reach now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from fusemld.hooks.environments import Note
from fusemld.model.backoff import backoff_s
from fusemld.model.errors import UnavailableError, may_pass

T = TypeVar("T")

FIRST_S = 0.5
LONGEST_S = 60.0
SAID_EVERY_S = 5.0
"""How often it is said anew how long the pause still is."""


async def patiently(
    action: Callable[[], Awaitable[T]], note: Note, *, may_wait: Callable[[float], bool] = lambda _: True
) -> T:
    """Repeat the action, with growing pauses, as long as it raises `UnavailableError` (or `OSError` for want of
    something that comes back) and the caller is not cancelled. `note` hears in every pause, again and again, how
    long it still is. `may_wait` is asked about each pause (in seconds): where it says no, the error is raised."""
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
            words = str(error)
        while pause_s > 0:
            note(f"{words}; trying again in {pause_s:g} s")
            await anyio.sleep(min(pause_s, SAID_EVERY_S))
            pause_s -= SAID_EVERY_S


def once(say: Note) -> Note:
    """Says the first only: a log needs no countdown."""
    is_said = False

    def note(text: str) -> None:
        nonlocal is_said
        if not is_said:
            is_said = True
            say(text)

    return note
