from __future__ import annotations

import pytest
from fusemld_kserve.resolver import LOCAL_URL, KServeResolver

from fusemld.kube.clusters import KubeClusters
from fusemld.model.extension import ResolvedService, ServiceAccess


def access(url: str) -> ServiceAccess:
    return ServiceAccess(service=ResolvedService(requirement="kserve", extension_id="k", service_id="k", url=url))


def test_only_the_process_executor_is_offered_local_serving() -> None:
    resolver = KServeResolver()

    assert [service.resource for offer in resolver.offers("process") for service in offer.services] == [
        "kserve-api",
        "kfserving-api",
    ]
    assert resolver.offers("kubernetes") == ()


@pytest.mark.parametrize(
    ("url", "ok", "words"),
    [
        (LOCAL_URL, True, "served on this machine"),
        ("https://kubernetes.default.svc", False, "https://kubernetes.default.svc is a Kubernetes cluster"),
    ],
)
async def test_a_record_of_a_cluster_is_said_to_be_unsupported(url: str, ok: bool, words: str) -> None:
    result = await KServeResolver().check(access(url), KubeClusters(None))

    assert result.ok is ok
    assert words in result.message
