"""Python's collector of cyclic garbage, while much is loaded that stays."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


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
