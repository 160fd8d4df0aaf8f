from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fusemld.executors.kubernetes.names import labels, notes, pod_name
from fusemld.executors.kubernetes.sweeping import Removed, insist, remove_everything, sweep_secrets
from fusemld.kube.client import KubeCluster
from fusemld.kube.connecting import Connection, connect
from fusemld.model.errors import ForbiddenError, UnavailableError
from fusemld.model.run import AttemptKey
from tests.cluster.local import LocalCluster

INSTANCE = "test-sweeping"
KEPT = AttemptKey("a run with spaces", "a", 1)
LEFT = AttemptKey("left", "a", 1)


@pytest.fixture
async def cluster(cluster: LocalCluster, namespace: str) -> AsyncIterator[KubeCluster]:
    connection = Connection(kubeconfig=cluster.kubeconfig, namespace=namespace)
    async with connect(connection, instance=INSTANCE) as connected:
        yield connected


async def add_secret(cluster: KubeCluster, key: AttemptKey, instance: str = INSTANCE) -> str:
    metadata = {
        "name": pod_name(key, instance),
        "labels": labels(key, "flow", instance),
        "annotations": notes(key, "flow"),
    }
    await cluster.create(f"/api/v1/namespaces/{cluster.namespace}/secrets", {"metadata": metadata})
    return pod_name(key, instance)


async def secrets(cluster: KubeCluster) -> set[str]:
    listed = await cluster.get(f"/api/v1/namespaces/{cluster.namespace}/secrets")
    return {item["metadata"]["name"] for item in listed["items"]}


@pytest.mark.cluster
async def test_secrets_of_runs_that_are_over_are_swept_and_no_others(cluster: KubeCluster) -> None:
    kept = await add_secret(cluster, KEPT)
    await add_secret(cluster, LEFT)
    others = await add_secret(cluster, LEFT, "another-daemon")

    await sweep_secrets(cluster, [KEPT])

    assert await secrets(cluster) == {kept, others}


@pytest.mark.cluster
async def test_removing_everything_leaves_what_is_another_daemons(cluster: KubeCluster) -> None:
    await add_secret(cluster, LEFT)
    others = await add_secret(cluster, LEFT, "another-daemon")

    removed = await remove_everything(cluster)

    assert removed == Removed(pods=0, secrets=1, config_maps=0)
    assert await secrets(cluster) == {others}


async def test_a_sweep_waits_for_the_api_server_and_gives_way_to_its_refusal() -> None:
    answers = [UnavailableError("away"), ForbiddenError("no")]

    async def sweep() -> None:
        raise answers.pop(0)

    await insist("secrets.not_swept", sweep)

    assert answers == []
