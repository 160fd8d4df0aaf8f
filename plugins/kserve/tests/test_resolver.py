from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fusemld_kserve.resolver import LOCAL_URL, KServeResolver

from fusemld.hooks.clusters import IN_CLUSTER_URL
from fusemld.hooks.services import ServiceAddress, ServiceRequest
from fusemld.kube.clusters import KubeClusters
from fusemld.kube.connecting import Connection, connect
from fusemld.model.errors import NotFoundError, StartError
from fusemld.model.extension import Extension, ResolvedService, ServiceAccess

NO_CLUSTERS = KubeClusters(None)
INFERENCE_SERVICES = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/inferenceservices.serving.kserve.io"


class NoServices:
    async def ensure(self, request: ServiceRequest, note: object) -> ServiceAddress:
        raise AssertionError(request)

    async def remove(self, name: str) -> None:
        raise AssertionError(name)

    def find(self, name: str) -> ServiceAddress | None:
        return None

    def folder(self, name: str) -> Path:
        raise AssertionError(name)


def access(url: str, **configuration: str) -> ServiceAccess:
    service = ResolvedService(requirement="kserve", extension_id="k", service_id="k", url=url)
    return ServiceAccess(service=service, configuration=configuration)


async def offered(executor: str, clusters: KubeClusters) -> Extension:
    resolver = KServeResolver()
    (offer,) = resolver.offers(executor)
    return await resolver.access(offer.id, "kserve-api", NoServices(), clusters, print)


@asynccontextmanager
async def configured(role_kubeconfig: Path) -> AsyncGenerator[KubeClusters]:
    async with connect(Connection(kubeconfig=role_kubeconfig, namespace="models"), instance="i") as cluster:
        yield KubeClusters(cluster)


@pytest.mark.parametrize("executor", ["process", "kubernetes"])
def test_both_executors_are_offered_kserve_by_both_names(executor: str) -> None:
    (offer,) = KServeResolver().offers(executor)

    assert [service.resource for service in offer.services] == ["kserve-api", "kfserving-api"]


async def test_local_steps_are_served_on_this_machine_whatever_is_configured() -> None:
    record = await offered("process", NO_CLUSTERS)

    assert record.services[0].endpoints[0].url == LOCAL_URL
    assert (await KServeResolver().check(access(LOCAL_URL), NO_CLUSTERS)).ok


async def test_without_a_cluster_a_pod_s_kserve_is_an_error_that_says_what_to_configure() -> None:
    with pytest.raises(StartError, match=r"no cluster is configured; set kubernetes\.kubeconfig or"):
        await offered("kubernetes", NO_CLUSTERS)


async def test_what_is_not_offered_is_not_found() -> None:
    with pytest.raises(NotFoundError, match="kserve does not offer it"):
        await KServeResolver().access("cluster-kserve", "seldon", NoServices(), NO_CLUSTERS, print)


@pytest.mark.cluster
@pytest.mark.usefixtures("inferenceservices")
async def test_kserve_is_found_where_it_is_installed_in_the_configured_cluster(role_kubeconfig: Path) -> None:
    async with configured(role_kubeconfig) as clusters:
        record = await offered("kubernetes", clusters)
        checked = await KServeResolver().check(access(IN_CLUSTER_URL), clusters)

    assert record.services[0].endpoints[0].url == IN_CLUSTER_URL
    assert record.zone == ""
    assert checked.ok
    assert "serving.kserve.io/v1beta1 is served by https://" in checked.message
    assert "models go to namespace models" in checked.message


@pytest.mark.cluster
async def test_a_cluster_without_kserve_is_named_with_what_it_lacks(role_kubeconfig: Path) -> None:
    """An API server always has other APIs: one of them stands for a cluster without KServe."""
    async with configured(role_kubeconfig) as clusters:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fusemld_kserve.resolver.GROUP_VERSION", "serving.example.com/v1")
            with pytest.raises(
                StartError, match=r"KServe is not installed there \(no API serving.example.com/v1\)"
            ):
                await offered("kubernetes", clusters)
            patch.setattr("fusemld_kserve.resolver.GROUP_VERSION", "apps/v1")
            checked = await KServeResolver().check(access(IN_CLUSTER_URL), clusters)

    assert not checked.ok
    assert "its API apps/v1 has no inferenceservices" in checked.message


async def test_a_record_of_a_cluster_that_does_not_answer_is_not_right() -> None:
    clusters = KubeClusters(None, connection=Connection(request_timeout_s=1))

    checked = await KServeResolver().check(access("http://127.0.0.1:1"), clusters)

    assert not checked.ok
    assert "127.0.0.1" in checked.message or "cannot" in checked.message
