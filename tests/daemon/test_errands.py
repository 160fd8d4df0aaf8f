from __future__ import annotations

import asyncio
from functools import partial

import anyio
import anyio.lowlevel
import pytest

from fusemld.daemon import errands
from fusemld.daemon.errands import Errands


async def test_a_task_that_is_done_takes_the_next_piece_of_work() -> None:
    used: list[asyncio.Task[None] | None] = []

    async def work() -> None:
        used.append(asyncio.current_task())

    async with anyio.create_task_group() as tasks:
        busy = Errands(tasks)
        for _ in range(3):
            busy.start(work)
            await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    assert used[0] is used[1] is used[2]


async def test_work_waits_for_no_other_work() -> None:
    begun: list[int] = []

    async def work(number: int) -> None:
        begun.append(number)
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        busy = Errands(tasks)
        for number in range(3):
            busy.start(partial(work, number))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    assert begun == [0, 1, 2]


async def test_only_some_of_the_tasks_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errands, "KEPT", 2)
    before = len(asyncio.all_tasks())
    async with anyio.create_task_group() as tasks:
        busy = Errands(tasks)
        for _ in range(5):
            busy.start(anyio.lowlevel.checkpoint)
        await anyio.wait_all_tasks_blocked()
        kept = len(asyncio.all_tasks()) - before
        tasks.cancel_scope.cancel()

    assert kept == 2


async def test_work_whose_own_scope_was_cancelled_leaves_its_task_for_the_next() -> None:
    done: list[str] = []

    async def cancelled() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.sleep_forever()
        done.append("cancelled")

    async def work() -> None:
        await anyio.sleep(0.01)
        done.append("work")

    async with anyio.create_task_group() as tasks:
        busy = Errands(tasks)
        for one in (cancelled, work, cancelled, work):
            busy.start(one)
            await anyio.sleep(0.05)
        tasks.cancel_scope.cancel()

    assert done == ["cancelled", "work", "cancelled", "work"]


async def test_what_it_raises_ends_the_group() -> None:
    async def work() -> None:
        raise RuntimeError("wrong")

    async def group() -> None:
        async with anyio.create_task_group() as tasks:
            Errands(tasks).start(work)
            await anyio.sleep_forever()

    with pytest.raises(ExceptionGroup, match="unhandled"):
        await group()


async def test_nothing_is_handed_to_a_task_that_is_going_away() -> None:
    done: list[str] = []

    async def work() -> None:
        await anyio.lowlevel.checkpoint()
        done.append("work")

    async with anyio.create_task_group() as tasks:
        busy = Errands(tasks)
        busy.start(work)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
        busy.start(work)

    assert done == ["work"]
