from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from fusemld.daemon.timers import STALE_ALLOWED, Timers
from tests.daemon.running import Clock


class Watched:
    """Timers, and whose deadlines they said have passed."""

    def __init__(self, clock: Clock) -> None:
        self.passed: list[tuple[str, str]] = []
        self.timers = Timers(clock, lambda run, step: self.passed.append((run, step)))

    async def look(self) -> None:
        """Have the task of the timers look at the clock again."""
        self.timers.set("other", "earliest", 1.0)
        await anyio.wait_all_tasks_blocked()
        self.passed.remove(("other", "earliest"))


@asynccontextmanager
async def running(clock: Clock) -> AsyncGenerator[Watched]:
    watched = Watched(clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watched.timers.run)
        yield watched
        tasks.cancel_scope.cancel()


async def test_deadlines_pass_in_their_order_and_once(clock: Clock) -> None:
    async with running(clock) as watched:
        watched.timers.set("r", "later", clock.now + 20)
        watched.timers.set("r", "sooner", clock.now + 10)
        await watched.look()
        assert watched.passed == []

        clock.now += 20
        await watched.look()
        await watched.look()

        assert watched.passed == [("r", "sooner"), ("r", "later")]
        assert len(watched.timers) == 0


async def test_only_the_deadline_that_was_set_last_counts(clock: Clock) -> None:
    async with running(clock) as watched:
        watched.timers.set("r", "moved", clock.now + 10)
        watched.timers.set("r", "moved", clock.now + 30)
        watched.timers.set("r", "gone", clock.now + 10)
        watched.timers.set("r", "gone", None)

        clock.now += 15
        await watched.look()
        assert watched.passed == []
        clock.now += 15
        await watched.look()

        assert watched.passed == [("r", "moved")]


async def test_a_deadline_that_has_not_passed_when_it_should_have_is_told(clock: Clock) -> None:
    woken = anyio.Event()
    timers = Timers(clock, lambda _run, _step: None, woken.set)
    timers.set("r", "s", clock.now + 0.001)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(timers.run)
        with anyio.fail_after(10):
            await woken.wait()
        tasks.cancel_scope.cancel()

    assert len(timers) == 1


async def test_a_deadline_that_has_passed_can_be_set_again(clock: Clock) -> None:
    async with running(clock) as watched:
        deadline = clock.now + 10
        watched.timers.set("r", "s", deadline)
        clock.now += 10
        await watched.look()

        watched.timers.set("r", "s", deadline)
        await watched.look()

        assert watched.passed == [("r", "s")] * 2


async def test_a_day_of_finished_steps_leaves_nothing_behind(clock: Clock) -> None:
    timers = Timers(clock, lambda _run, _step: None)

    for number in range(20 * STALE_ALLOWED):
        timers.set("r", f"s{number}", clock.now + 86400)
        timers.set("r", f"s{number}", None)

    assert len(timers) == 0
    assert len(timers._heap) <= STALE_ALLOWED + 1
