from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from fusemld.kube.gate import Gate
from fusemld.kube.pace import Pace


@asynccontextmanager
async def passing(gate: Gate) -> AsyncGenerator[float]:
    started_at = await gate.enter()
    try:
        yield started_at
    finally:
        gate.leave()


async def test_requests_pass_in_the_order_in_which_they_came() -> None:
    gate, passed, leave = Gate(Pace(1)), list[int](), anyio.Event()

    async def request(number: int) -> None:
        async with passing(gate):
            passed.append(number)
            await leave.wait()

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(request, number)
            await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()
        assert passed == [0]
        leave.set()

    assert passed == [0, 1, 2, 3]
    assert gate.pace.under_way == 0


async def test_all_who_may_pass_do_when_several_places_become_free_at_once() -> None:
    gate, passed, leave = Gate(Pace(3)), list[int](), anyio.Event()

    async def request(number: int) -> None:
        async with passing(gate):
            passed.append(number)
            if number < 3:
                await leave.wait()
            else:
                await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(request, number)
            await anyio.wait_all_tasks_blocked()
        leave.set()
        await anyio.wait_all_tasks_blocked()

        assert passed == [0, 1, 2, 3, 4, 5]
        assert gate.pace.under_way == 3
        tasks.cancel_scope.cancel()

    assert gate.pace.under_way == 0


async def test_a_refusal_holds_everybody_back_for_as_long_as_the_server_said() -> None:
    gate = Gate(Pace(4))
    async with passing(gate) as started_at:
        gate.refused(started_at, 0.05)

    before = anyio.current_time()
    async with passing(gate) as started_at:
        pass

    assert started_at - before >= 0.04


async def test_one_who_gives_up_waiting_takes_no_place() -> None:
    gate = Gate(Pace(1))

    async with passing(gate):
        with anyio.move_on_after(0.01) as scope:
            async with passing(gate):
                raise AssertionError("passed")

    assert scope.cancelled_caught
    with anyio.fail_after(1):
        async with passing(gate):
            assert gate.pace.under_way == 1
