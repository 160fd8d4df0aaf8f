from __future__ import annotations

import anyio

from fusemld.daemon.pulse import Pulse


async def test_a_waiter_that_has_not_seen_the_latest_does_not_wait() -> None:
    pulse = Pulse()
    seen = pulse.version
    pulse.fire()

    with anyio.fail_after(1):
        latest = await pulse.wait(seen)

    assert latest == pulse.version


async def test_every_waiter_is_woken_and_many_fires_are_one_news() -> None:
    pulse = Pulse()
    woken: list[int] = []

    async def wait() -> None:
        woken.append(await pulse.wait(0))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        pulse.fire()
        pulse.fire()

    assert woken == [2, 2, 2]
