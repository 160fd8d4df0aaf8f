from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from fusemld.hooks.clusters import Json
from fusemld.kube.connecting import Connection, connect
from fusemld.model.errors import NotFoundError, StartError
from tests.kube.faults import FaultyServer, connected, listing, streams

PODS = "/api/v1/namespaces/x/pods"


def config_map(name: str, **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


@pytest.mark.cluster
async def test_an_object_is_followed_through_its_states(kubeconfig: Path, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    async with (
        connect(Connection(kubeconfig=kubeconfig), instance="test") as cluster,
        cluster.states(path, "one") as states,
    ):
        with anyio.fail_after(10):
            first = await anext(states)
            await cluster.create(path, config_map("other"))
            await cluster.create(path, config_map("one", a="1"))
            created = await anext(states)
            await cluster.patch(f"{path}/one", {"data": {"a": "2"}})
            changed = await anext(states)
            await cluster.delete(f"{path}/one")
            gone = await anext(states)

    assert first is None
    assert created is not None
    assert created["data"] == {"a": "1"}
    assert changed is not None
    assert changed["data"] == {"a": "2"}
    assert gone is None


@pytest.mark.cluster
async def test_what_cannot_be_followed_is_told_at_once(kubeconfig: Path) -> None:
    async with connect(Connection(kubeconfig=kubeconfig), instance="test") as cluster:
        with pytest.raises(NotFoundError):
            async with cluster.states("/apis/absent.example/v1/namespaces/default/things", "x"):
                raise AssertionError("followed")


async def test_an_error_of_the_one_who_follows_comes_out_as_it_is() -> None:
    async with connected(FaultyServer([listing(1), streams(then=anyio.Event().wait)])) as cluster:
        with pytest.raises(StartError, match="mine"):
            async with cluster.states(PODS, "x"):
                raise StartError("mine")
