"""After a request whose answer never came nobody knows what it did, and an attempt must still run at most once."""

from __future__ import annotations

from typing import Any, cast

import pytest

from fusemld.hooks.clusters import Json
from fusemld.kube.client import KubeCluster
from fusemld.model.errors import UnavailableError
from fusemld.model.run import Ending
from tests.executors.kubernetes.room import Site, launch

pytestmark = pytest.mark.cluster

SECRET: Any = {"secret_env": {"TOKEN": "canary"}, "secrets": frozenset({"canary"})}


class LossyCluster:
    """The real cluster, but of the first create of every kind the request (`loses_requests`) or the answer is
    lost."""

    def __init__(self, cluster: KubeCluster, *, loses_requests: bool) -> None:
        self._cluster = cluster
        self._loses_requests = loses_requests
        self._lost: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cluster, name)

    async def create(self, path: str, body: Json) -> Json:
        if path in self._lost:
            return await self._cluster.create(path, body)
        self._lost.add(path)
        if not self._loses_requests:
            await self._cluster.create(path, body)
        raise UnavailableError("cannot create it: the connection broke")

    @classmethod
    def losing(cls, *, requests: bool) -> Any:
        return lambda cluster: cast("KubeCluster", cls(cluster, loses_requests=requests))


@pytest.mark.parametrize("requests", [True, False])
async def test_an_attempt_whose_creates_went_unanswered_runs_once(site: Site, requests: bool) -> None:
    asked = launch("a", "echo $TOKEN; echo ran", **SECRET)
    async with site.room(wrapped=LossyCluster.losing(requests=requests)) as room:
        with pytest.raises(UnavailableError):  # of its Secret
            await room.launch(asked)
        assert room.reports == []
        with pytest.raises(UnavailableError):  # of its pod
            await room.launch(asked)
        await room.launch(asked)
        ended = await room.ended(asked.key)
        await room.executor.forget(asked.key)
        await room.until_gone("pods", "secrets")

        assert ended.outcome.ending is Ending.SUCCEEDED
        assert room.log(asked.key) == b"***\nran\n"


@pytest.mark.parametrize("requests", [True, False])
async def test_an_attempt_that_is_told_to_stop_then_leaves_nothing(site: Site, requests: bool) -> None:
    asked = launch("a", "sleep 100")
    async with site.room(wrapped=LossyCluster.losing(requests=requests)) as room:
        with pytest.raises(UnavailableError):
            await room.launch(asked)
        await room.executor.kill(asked.key, 1)
        ended = await room.ended(asked.key)
        await room.launch(asked)
        await room.executor.forget(asked.key)
        await room.until_gone("pods")

        assert ended.outcome.ending is Ending.CANCELLED


async def test_an_attempt_that_is_forgotten_then_leaves_nothing(site: Site) -> None:
    asked = launch("a", "sleep 100", **SECRET)
    async with site.room(wrapped=LossyCluster.losing(requests=False)) as room:
        for _ in range(2):
            with pytest.raises(UnavailableError):
                await room.launch(asked)
        await room.executor.forget(asked.key)

        await room.until_gone("pods", "secrets")
