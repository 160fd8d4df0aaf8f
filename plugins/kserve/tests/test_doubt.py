from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import pytest
from fusemld_kserve import doubt
from fusemld_kserve.doubt import Doubting

from fusemld.hooks.clusters import REFUSED_S, Cluster, Json
from fusemld.model.errors import ConflictError, ForbiddenError, FusemldError

REFUSED = ForbiddenError('cannot get /x: pods "a" is forbidden: RBAC: role not found')
FOUND: Json = {"metadata": {"name": "a"}}


class RefusingCluster:
    """Every call is answered by the next entry: a time, and what goes wrong then, if anything does."""

    name, namespace, instance = "https://x", "models", "i"

    def __init__(self, *answers: tuple[float, FusemldError | None]) -> None:
        self.left = list(answers)
        self.now = 0.0

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Json:
        return self._answer()

    async def create(self, path: str, body: Json) -> Json:
        return self._answer()

    async def apply(self, path: str, body: Json, *, force: bool = True) -> Json:
        return self._answer()

    async def patch(self, path: str, body: Json, *, subresource: str = "") -> Json:
        return self._answer()

    async def delete(
        self, path: str, *, uid: str | None = None, grace_s: int | None = None, propagation: str = "Background"
    ) -> bool:
        return bool(self._answer())

    @asynccontextmanager
    async def states(self, path: str, name: str) -> AsyncGenerator[AsyncGenerator[Json | None]]:
        yield _states(self._answer())

    def _answer(self) -> Json:
        self.now, error = self.left.pop(0)
        if error is not None:
            raise error
        return FOUND


async def _states(state: Json) -> AsyncGenerator[Json | None]:
    yield state


async def first_state(cluster: Cluster) -> Json | None:
    async with cluster.states("/x", "a") as states:
        async for state in states:
            return state
    return None


CALLS: Mapping[str, Callable[[Cluster], Awaitable[Json | bool | None]]] = {
    "get": lambda cluster: cluster.get("/x"),
    "create": lambda cluster: cluster.create("/x", {}),
    "apply": lambda cluster: cluster.apply("/x", {}),
    "patch": lambda cluster: cluster.patch("/x", {}),
    "delete": lambda cluster: cluster.delete("/x"),
    "states": first_state,
}


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubt, "_FIRST_PAUSE_S", 0.0)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_refusal_that_passes_is_only_noted(
    call: Callable[[Cluster], Awaitable[Json | bool | None]],
) -> None:
    notes: list[str] = []
    cluster = RefusingCluster((5.0, REFUSED), (4.0 + REFUSED_S, REFUSED), (5.0 + REFUSED_S, None))

    found = await call(Doubting(cluster, notes.append, lambda: cluster.now))

    assert found in (FOUND, True)
    assert notes == [f"{REFUSED}; trying again"]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_refusal_that_stays_is_believed_in_the_end(
    call: Callable[[Cluster], Awaitable[Json | bool | None]],
) -> None:
    cluster = RefusingCluster((5.0, REFUSED), (5.0 + REFUSED_S, REFUSED))

    with pytest.raises(ForbiddenError, match="RBAC: role not found"):
        await call(Doubting(cluster, lambda _: None, lambda: cluster.now))

    assert cluster.left == []


async def test_what_is_no_refusal_is_raised_at_once() -> None:
    cluster = RefusingCluster((0.0, ConflictError("it has changed")))

    with pytest.raises(ConflictError):
        await Doubting(cluster, lambda _: None, lambda: cluster.now).get("/x")
