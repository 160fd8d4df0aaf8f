"""A cluster whose refusals are believed only once they stay."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

import anyio

from fusemld.hooks.clusters import Cluster, Json, Refusals
from fusemld.hooks.environments import Note
from fusemld.model.backoff import backoff_s
from fusemld.model.errors import ForbiddenError

T = TypeVar("T")

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0


class Doubting:
    """A `Cluster`. Each call raises `ForbiddenError` only after `REFUSED_S` of nothing else; `note` hears what is
    refused meanwhile."""

    def __init__(self, cluster: Cluster, note: Note, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = cluster.name
        self.namespace = cluster.namespace
        self.instance = cluster.instance
        self._cluster = cluster
        self._note = note
        self._clock = clock

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Json:
        return await self._insist(lambda: self._cluster.get(path, params))

    async def create(self, path: str, body: Json) -> Json:
        return await self._insist(lambda: self._cluster.create(path, body))

    async def apply(self, path: str, body: Json, *, force: bool = True) -> Json:
        return await self._insist(lambda: self._cluster.apply(path, body, force=force))

    async def patch(self, path: str, body: Json, *, subresource: str = "") -> Json:
        return await self._insist(lambda: self._cluster.patch(path, body, subresource=subresource))

    async def delete(
        self, path: str, *, uid: str | None = None, grace_s: int | None = None, propagation: str = "Background"
    ) -> bool:
        return await self._insist(
            lambda: self._cluster.delete(path, uid=uid, grace_s=grace_s, propagation=propagation)
        )

    @asynccontextmanager
    async def states(self, path: str, name: str) -> AsyncGenerator[AsyncGenerator[Json | None]]:
        async with AsyncExitStack() as stack:
            yield await self._insist(lambda: stack.enter_async_context(self._cluster.states(path, name)))

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        tries = 0
        refusals = Refusals()
        while True:
            try:
                return await call()
            except ForbiddenError as error:
                if refusals.are_believed(self._clock()):
                    raise
                if not tries:
                    self._note(f"{error}; trying again")
            tries += 1
            await anyio.sleep(backoff_s(tries, _FIRST_PAUSE_S, _LONGEST_PAUSE_S))
