"""Work that may take its time."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from fusemld.model.progress import Progress

LONGEST_PAUSE_S = 0.05


@asynccontextmanager
async def at_leisure(progress: Progress) -> AsyncGenerator[None]:
    """What is done in the block is followed by a pause as long as it took, within bounds: others come first. It is
    a step of what makes the progress."""
    started = time.monotonic()
    yield
    progress.step()
    await anyio.sleep(min(LONGEST_PAUSE_S, time.monotonic() - started))
