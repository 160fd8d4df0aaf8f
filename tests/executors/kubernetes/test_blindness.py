"""A pod that came and went while the watch was away leaves no trace in any list."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import anyio
import pytest

from fusemld.executors.kubernetes import executor
from fusemld.executors.kubernetes.names import pod_name
from fusemld.kube.client import KubeCluster
from fusemld.model.run import Ending
from tests.executors.kubernetes.room import Site, launch

pytestmark = pytest.mark.cluster


class BlindCluster:
    """The real cluster, whose watches never say anything."""

    def __init__(self, cluster: KubeCluster) -> None:
        self._cluster = cluster

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cluster, name)

    @contextlib.asynccontextmanager
    async def watch(self, path: str, **_: Any) -> AsyncIterator[AsyncIterator[list[bytes]]]:
        yield self._nothing()

    async def _nothing(self) -> AsyncIterator[list[bytes]]:
        await anyio.sleep_forever()
        yield []


async def test_an_attempt_whose_pod_nobody_ever_saw_ends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "_SEARCH_AFTER_S", 0.3)
    asked = launch("a", "sleep 100")
    async with site.room(wrapped=lambda cluster: cast("KubeCluster", BlindCluster(cluster))) as room:
        await room.launch(asked)
        path = f"/api/v1/namespaces/{room.cluster.namespace}/pods/{pod_name(asked.key, site.instance)}"
        await room.admin.delete(path, grace_s=1)
        ended = await room.ended(asked.key)

        assert ended.outcome.ending is Ending.DELETED
        assert room.cluster.requests["create pods"] == 1
