from __future__ import annotations

from pathlib import Path

import pytest

from fusemld.hooks.clusters import IN_CLUSTER_URL
from fusemld.kube.clusters import KubeClusters
from fusemld.kube.connecting import Connection, connect
from fusemld.model.errors import StartError
from fusemld.model.extension import ResolvedService, ServiceAccess
from tests.kube.faults import FaultyServer, says

SECRET = "s3cr3t-t0ken"


def access_to(url: str, **configuration: str) -> ServiceAccess:
    service = ResolvedService(requirement="serving", extension_id="kserve", service_id="api", url=url)
    return ServiceAccess(service=service, configuration=configuration)


@pytest.mark.cluster
async def test_the_url_inside_a_cluster_means_the_configured_one(kubeconfig: Path) -> None:
    async with connect(Connection(kubeconfig=kubeconfig), instance="mine") as configured:
        clusters = KubeClusters(configured)

        async with clusters.open(access_to(f"{IN_CLUSTER_URL}/")) as cluster:
            assert cluster is configured


async def test_without_a_configured_cluster_its_url_is_refused() -> None:
    with pytest.raises(StartError, match="no cluster is configured"):
        async with KubeClusters(None).open(access_to(IN_CLUSTER_URL)):
            raise AssertionError("opened")


async def test_another_cluster_is_used_with_the_records_credentials() -> None:
    server = FaultyServer([says({"items": []})])
    async with (
        server.serving() as url,
        KubeClusters(None, instance="mine").open(access_to(url, token=SECRET, namespace="models")) as cluster,
    ):
        assert await cluster.get("/api/v1/namespaces/models/pods") == {"items": []}
        assert (cluster.name, cluster.namespace, cluster.instance) == (url, "models", "mine")

    assert server.tokens == [f"Bearer {SECRET}"]


async def test_credentials_wrong_in_form_are_a_start_error_that_names_the_record() -> None:
    access = access_to("https://far:6443", kubeconfig=f"users: [{SECRET}")

    with pytest.raises(StartError, match="kubeconfig of the record kserve/api") as raised:
        async with KubeClusters(None).open(access):
            raise AssertionError("opened")

    assert SECRET not in str(raised.value)
