from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from fusemld.executors.kubernetes import sweeping
from fusemld.executors.kubernetes.names import labels, notes, pod_name
from fusemld.executors.kubernetes.sweeping import Removed, insist, remove_everything, sweep_secrets
from fusemld.hooks.clusters import REFUSED_S
from fusemld.kube.client import KubeCluster
from fusemld.kube.connecting import Connection, connect
from fusemld.model.errors import ForbiddenError, FusemldError, InvalidInputError, UnavailableError
from fusemld.model.run import AttemptKey
from tests.cluster.api import Api

INSTANCE = "test-sweeping"
AWAY, REFUSED = UnavailableError("away"), ForbiddenError("no")
KEPT = AttemptKey("a run with spaces", "a", 1)
LEFT = AttemptKey("left", "a", 1)


@pytest.fixture
async def granted(role_kubeconfig: Path, namespace: str) -> AsyncIterator[KubeCluster]:
    """With the rights of the example's Role."""
    connection = Connection(kubeconfig=role_kubeconfig, namespace=namespace)
    async with connect(connection, instance=INSTANCE) as connected:
        yield connected


def add_secret(api: Api, namespace: str, key: AttemptKey, instance: str = INSTANCE) -> str:
    metadata = {
        "name": pod_name(key, instance),
        "labels": labels(key, "flow", instance),
        "annotations": notes(key, "flow"),
    }
    api.create(f"/api/v1/namespaces/{namespace}/secrets", {"metadata": metadata})
    return pod_name(key, instance)


def secrets(api: Api, namespace: str) -> set[str]:
    return {item["metadata"]["name"] for item in api.items(f"/api/v1/namespaces/{namespace}/secrets")}


@pytest.mark.cluster
async def test_secrets_of_runs_that_are_over_are_swept_and_no_others(
    granted: KubeCluster, api: Api, namespace: str
) -> None:
    kept = add_secret(api, namespace, KEPT)
    add_secret(api, namespace, LEFT)
    others = add_secret(api, namespace, LEFT, "another-daemon")

    await sweep_secrets(granted, [KEPT.run])

    assert secrets(api, namespace) == {kept, others}


@pytest.mark.cluster
async def test_removing_everything_leaves_what_is_another_daemons(
    granted: KubeCluster, api: Api, namespace: str
) -> None:
    add_secret(api, namespace, LEFT)
    others = add_secret(api, namespace, LEFT, "another-daemon")

    removed = await remove_everything(granted)

    assert removed == Removed(pods=0, secrets=1, config_maps=0)
    assert secrets(api, namespace) == {others}


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([(0, AWAY), (900, AWAY), (901, None)], []),
        ([(0, REFUSED), (1, REFUSED), (REFUSED_S, None)], []),
        ([(0, REFUSED), (REFUSED_S - 1, REFUSED), (REFUSED_S, REFUSED)], ["no"]),
        ([(0, REFUSED), (REFUSED_S, AWAY), (REFUSED_S + 1, REFUSED), (REFUSED_S + 2, None)], []),
        ([(0, InvalidInputError("what"))], ["what"]),
    ],
)
async def test_a_sweep_waits_for_the_api_server_and_gives_way_to_a_refusal_that_stays(
    monkeypatch: pytest.MonkeyPatch, answers: list[tuple[float, FusemldError | None]], told: list[str]
) -> None:
    monkeypatch.setattr(sweeping, "_FIRST_PAUSE_S", 0.0)
    left, now = list(answers), 0.0

    async def sweep() -> None:
        nonlocal now
        now, error = left.pop(0)
        if error is not None:
            raise error

    with structlog.testing.capture_logs() as logs:
        await insist("secrets.not_swept", sweep, lambda: now)

    assert left == []
    assert [each["error"] for each in logs] == told
