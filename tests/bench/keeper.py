"""What the keeper costs: `python tests/bench/keeper.py`.

Runs `true` through the keeper (claimed durably, reported, forgotten), its client on the daemon's event loop, and
through a bare asyncio loop that spawns and reaps, alternating, and prints milliseconds a process and the ratio, in
a chain and 32 at once.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import structlog
from anyio import to_thread

from fusemld.daemon.event_loop import EventLoop
from fusemld.executors.process.client import Keeper
from fusemld.hooks.processes import ProcessEnded, ProcessRequest, ProcessStarted

PROGRAM = "/bin/true"
ROUNDS = 5
Run = Callable[[str], Awaitable[None]]


async def bare(_key: str) -> None:
    process = await asyncio.create_subprocess_exec(PROGRAM)
    await process.wait()


class Kept:
    def __init__(self, state: Path, keeper: Keeper) -> None:
        self._state = state
        self._keeper = keeper
        self._ends: dict[str, anyio.Event] = {}
        keeper.observe("", self._observe)

    def _observe(self, event: ProcessStarted | ProcessEnded) -> None:
        if isinstance(event, ProcessEnded) and event.key in self._ends:
            self._ends.pop(event.key).set()

    async def run(self, key: str) -> None:
        end = self._ends[key] = anyio.Event()
        request = ProcessRequest(key=key, argv=(PROGRAM,), cwd=self._state, log=self._state / "logs" / key)
        await self._keeper.spawn(request)
        await end.wait()
        await self._keeper.forget(key)


async def chain_ms(run: Run, name: str, count: int = 200) -> float:
    start = time.perf_counter()
    for number in range(count):
        await run(f"{name}/{number}")
    return (time.perf_counter() - start) / count * 1000


async def at_once_ms(run: Run, name: str, count: int = 640, width: int = 32) -> float:
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await run(f"{name}/{number}")

    start = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(width):
            tasks.start_soon(worker)
    return (time.perf_counter() - start) / count * 1000


async def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with tempfile.TemporaryDirectory() as folder:
        keeper = Keeper(Path(folder))
        async with anyio.create_task_group() as tasks:
            await tasks.start(keeper.run)
            kept = Kept(Path(folder), keeper)
            for title, measure in (("chain", chain_ms), ("32 at once", at_once_ms)):
                pairs = [
                    (
                        await to_thread.run_sync(asyncio.run, measure(bare, "bare")),
                        await measure(kept.run, f"{title}/{number}"),
                    )
                    for number in range(ROUNDS)
                ]
                bare_ms, kept_ms = (statistics.median(column) for column in zip(*pairs, strict=True))
                ratio = statistics.median(kept_one / bare_one for bare_one, kept_one in pairs)
                print(f"{title}: bare {bare_ms:.3f} ms, keeper {kept_ms:.3f} ms, ratio {ratio:.2f}")
            tasks.cancel_scope.cancel()
        await keeper.shutdown(0)


if __name__ == "__main__":
    anyio.run(main, backend_options={"loop_factory": EventLoop})
