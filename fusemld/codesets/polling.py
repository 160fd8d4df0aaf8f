"""Looking regularly whether the codesets of assignments have changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, Protocol, TypeVar

import anyio
import structlog

from fusemld.model.codeset import Codeset, CodesetReference
from fusemld.model.errors import FusemldError

log = structlog.get_logger(__name__)

AT_ONCE = 4
TICK_S = 0.5


class Polled(Protocol):
    """A codeset that somebody watches, at the ref that `reference` names."""

    @property
    def reference(self) -> CodesetReference: ...

    @property
    def codeset(self) -> Codeset: ...


P = TypeVar("P", bound=Polled)


class Poller(Generic[P]):
    """Asks every `interval_s` for the version of what `polled` lists, a few at once; what is new in the list is
    asked for at once. Tells `seen(polled, version, problem)` when the version or the problem is another than last
    time; exactly one of the two is empty. A codeset that fails never stops the others.
    """

    def __init__(
        self,
        interval_s: float,
        polled: Callable[[], Iterable[P]],
        version: Callable[[Codeset, str | None], Awaitable[str]],
        seen: Callable[[P, str, str], Awaitable[None]],
    ) -> None:
        self._interval_s = interval_s
        self._polled = polled
        self._version = version
        self._seen = seen
        self._told: dict[tuple[str, Codeset], tuple[str, str]] = {}
        self._next: dict[tuple[str, Codeset], float] = {}
        self._asking: set[tuple[str, Codeset]] = set()

    async def run(self) -> None:
        """Never returns. What `seen` raises ends it."""
        limiter = anyio.CapacityLimiter(AT_ONCE)
        async with anyio.create_task_group() as group:
            while True:
                now = anyio.current_time()
                current = {(str(polled.reference), polled.codeset): polled for polled in self._polled()}
                self._told = {key: told for key, told in self._told.items() if key in current}
                self._next = {key: time for key, time in self._next.items() if key in current}
                for key, polled in current.items():
                    if key not in self._asking and self._next.get(key, 0.0) <= now:
                        self._asking.add(key)
                        group.start_soon(self._ask, key, polled, limiter, name=f"codesets.poll {key[0]}")
                await anyio.sleep(min(TICK_S, self._interval_s))

    async def _ask(self, key: tuple[str, Codeset], polled: P, limiter: anyio.CapacityLimiter) -> None:
        version = problem = ""
        try:
            async with limiter:
                version = await self._version(polled.codeset, polled.reference.ref)
        except (FusemldError, OSError) as error:
            problem = str(error)
        self._asking.discard(key)
        self._next[key] = anyio.current_time() + self._interval_s
        if self._told.get(key) != (version, problem):
            self._told[key] = version, problem
            if problem:
                log.warning("codeset.unreachable", codeset=key[0], error=problem)
            await self._seen(polled, version, problem)
