"""Python's collector of cyclic garbage: less of it than by default."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_YOUNG: Final = 10_000
"""Net new containers (tuples, dicts, objects) before the young ones are searched. The default of 700 to 2,000 is
passed again and again by the answers of an API server, all of which are freed by counting."""


def search_seldom() -> None:
    """For a process that makes many objects that are freed without the collector."""
    _, *older = gc.get_threshold()
    gc.set_threshold(_YOUNG, *older)


@contextmanager
def nothing_is_garbage() -> Iterator[None]:
    """What is made in the block is not searched for garbage, then or later: for what lives as long as the process.
    Searching it again at every tenth of it takes longer than loading it. (What of it is not needed any more is
    freed all the same, but for cycles.)"""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
