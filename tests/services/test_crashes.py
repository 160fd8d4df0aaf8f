"""A daemon that dies at any point of an update: the service answers, and repeating the update finishes it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import pytest

from fusemld.hooks.processes import Observer, ProcessEnded, Processes, ProcessRequest, ProcessStarted
from fusemld.hooks.services import ServiceRequest
from fusemld.model.errors import UnavailableError
from fusemld.model.service import ServiceCondition, ServiceRecord
from fusemld.services.persistence import ServicePersistence
from fusemld.services.supervisor import ServiceSupervisor
from tests.services.asking import fetch, silent

Open = Callable[..., AbstractAsyncContextManager[ServiceSupervisor]]
Eventually = Callable[[Callable[[], bool], str], Awaitable[None]]


class Death:
    """Counts what is done to the world; at the `count`-th time, before or after it is done, time stands still."""

    def __init__(self, count: int, *, after: bool) -> None:
        self._left = count
        self._after = after
        self.armed = False
        self.struck = anyio.Event()

    def wrap(self, processes: Processes, records: ServicePersistence) -> tuple[Processes, ServicePersistence]:
        return MortalProcesses(processes, self), MortalRecords(records, self)

    async def do(self, action: Coroutine[Any, Any, None]) -> None:
        if self.struck.is_set():
            action.close()
            raise UnavailableError("dead")
        if not self.armed or self._left > 0:
            self._left -= self.armed
            await action
            return
        if self._after:
            await action
        else:
            action.close()
        self.struck.set()
        await anyio.sleep_forever()


class MortalProcesses:
    def __init__(self, processes: Processes, death: Death) -> None:
        self._processes = processes
        self._death = death

    @property
    def journal(self) -> str:
        return self._processes.journal

    async def spawn(self, request: ProcessRequest) -> None:
        await self._death.do(self._processes.spawn(request))

    async def stop(self, key: str, grace_s: float) -> None:
        await self._death.do(self._processes.stop(key, grace_s))

    async def forget(self, key: str) -> None:
        await self._death.do(self._processes.forget(key))

    async def known(self, prefix: str) -> Sequence[ProcessStarted | ProcessEnded]:
        return await self._processes.known(prefix)

    def observe(self, prefix: str, observer: Observer) -> None:
        self._processes.observe(prefix, observer)

    async def close_listener(self, name: str) -> None:
        await self._death.do(self._processes.close_listener(name))


class MortalRecords:
    def __init__(self, records: ServicePersistence, death: Death) -> None:
        self._records = records
        self._death = death

    async def load(self) -> Sequence[ServiceRecord]:
        return await self._records.load()

    async def save(self, record: ServiceRecord) -> None:
        await self._death.do(self._records.save(record))

    async def delete(self, name: str) -> None:
        await self._death.do(self._records.delete(name))


def living(folder: Path) -> list[str]:
    """The processes whose home is the folder of the service."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and f"HOME={folder}".encode() in (process / "environ").read_bytes().split(
                b"\0"
            ):
                found.append(process.name)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("kind", "count"), [*(("shared", n) for n in range(5)), *(("plain", n) for n in range(4))]
)
async def test_an_update_survives_the_daemons_death_at_every_point(
    open_supervisor: Open, eventually: Eventually, state: Path, kind: str, count: int, after: bool
) -> None:
    old = ServiceRequest(name="model", kind=kind, parameters={"text": "old"})
    new = ServiceRequest(name="model", kind=kind, parameters={"text": "new"})
    death = Death(count, after=after)
    async with open_supervisor(death.wrap) as supervisor:
        address = await supervisor.ensure(old, silent)
        death.armed = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(supervisor.ensure, new, silent)
            with anyio.move_on_after(3):
                await death.struck.wait()
            tasks.cancel_scope.cancel()

    async with open_supervisor() as supervisor:
        await eventually(
            lambda: [found.state for found in supervisor.states()] == [ServiceCondition.READY], "it is ready"
        )
        assert await fetch(address.url) in ("old", "new")

        assert await supervisor.ensure(new, silent) == address

        assert await fetch(address.url) == "new"
        await eventually(lambda: len(living(address.folder)) == 1, "one process serves")


async def test_services_go_on_though_the_keeper_goes_away_while_it_is_asked_about_them(
    open_supervisor: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = 2

    def wrap(processes: Processes, records: ServicePersistence) -> tuple[Processes, ServicePersistence]:
        ask = processes.known

        async def known(prefix: str) -> Sequence[ProcessStarted | ProcessEnded]:
            nonlocal left
            if left:
                left -= 1
                raise UnavailableError("cannot reach the keeper of processes: it went away")
            return await ask(prefix)

        monkeypatch.setattr(processes, "known", known)
        return processes, records

    request = ServiceRequest(name="model", kind="plain", parameters={"text": "old"})
    async with open_supervisor() as first:
        address = await first.ensure(request, silent)
        (before,) = living(address.folder)

    async with open_supervisor(wrap) as second:
        assert left == 0
        assert await second.ensure(request, silent) == address
        assert living(address.folder) == [before]
