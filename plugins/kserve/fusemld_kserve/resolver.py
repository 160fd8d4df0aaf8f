"""Access to KServe where the registry has no record: the embedded inference servers of this machine."""

from __future__ import annotations

import msgspec

from fusemld.hooks.clusters import Clusters
from fusemld.hooks.environments import Note
from fusemld.hooks.resolvers import CheckResult
from fusemld.hooks.services import Services
from fusemld.model.errors import NotFoundError
from fusemld.model.extension import Endpoint, Extension, Service, ServiceAccess

RESOURCES = ("kserve-api", "kfserving-api")
LOCAL_URL = "local://process"
_CATEGORY = "prediction-serving"
_NEEDS_A_CLUSTER = "it needs the cluster support of the kubernetes executor, which is not supported yet"

_OFFER = Extension(
    id="embedded-kserve",
    product="kserve",
    zone="local",
    description="models served on this machine over KServe's Open Inference Protocol (V2)",
    services=tuple(Service(id=resource, resource=resource, category=_CATEGORY) for resource in RESOURCES),
)


def is_local(url: str) -> bool:
    """Whether the URL stands for this machine; any other names a cluster."""
    return not url or url.startswith("local:")


def cluster_refusal(url: str) -> str:
    """Why a cluster cannot be used in this version, as the end of a sentence."""
    return f"{url} is a Kubernetes cluster, and {_NEEDS_A_CLUSTER}; remove the record to serve on this machine"


class KServeResolver:
    """Nothing needs to be started before a model is there, so access costs nothing."""

    name = "kserve"
    resources: tuple[str, ...] = RESOURCES

    def offers(self, executor: str) -> tuple[Extension, ...]:
        return (_OFFER,) if executor == "process" else ()

    async def access(
        self,
        extension_id: str,
        service_id: str,
        services: Services,  # noqa: ARG002
        clusters: Clusters,  # noqa: ARG002
        note: Note,  # noqa: ARG002
    ) -> Extension:
        for service in _OFFER.services:
            if (extension_id, service_id) == (_OFFER.id, service.id):
                reachable = msgspec.structs.replace(service, endpoints=(Endpoint(url=LOCAL_URL),))
                return msgspec.structs.replace(_OFFER, services=(reachable,))
        raise NotFoundError(f"cannot give access to {extension_id}/{service_id}: kserve does not offer it")

    async def check(self, access: ServiceAccess, clusters: Clusters) -> CheckResult:  # noqa: ARG002
        url = access.service.url
        if is_local(url):
            return CheckResult(ok=True, message="models are served on this machine")
        return CheckResult(ok=False, message=cluster_refusal(url))
