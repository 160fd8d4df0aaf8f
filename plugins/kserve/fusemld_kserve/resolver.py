"""Access to KServe where the registry has no record: the embedded inference servers of this machine for local
steps, the configured cluster for pods."""

from __future__ import annotations

import msgspec

from fusemld.hooks.clusters import IN_CLUSTER_URL, Cluster, Clusters
from fusemld.hooks.environments import Note
from fusemld.hooks.resolvers import CheckResult
from fusemld.hooks.services import Services
from fusemld.model.errors import FusemldError, NotFoundError, StartError
from fusemld.model.extension import Endpoint, Extension, Service, ServiceAccess
from fusemld_kserve.doubt import Doubting
from fusemld_kserve.manifests import GROUP_VERSION, RESOURCE

RESOURCES = ("kserve-api", "kfserving-api")
LOCAL_URL = "local://process"
_CATEGORY = "prediction-serving"
_SERVICES = tuple(Service(id=resource, resource=resource, category=_CATEGORY) for resource in RESOURCES)

_EMBEDDED = Extension(
    id="embedded-kserve",
    product="kserve",
    zone="local",
    description="models served on this machine over KServe's Open Inference Protocol (V2)",
    services=_SERVICES,
)
_DISCOVERED = Extension(
    id="cluster-kserve",
    product="kserve",
    description="KServe in the cluster of the settings",
    services=_SERVICES,
)
_OFFERS = {"process": _EMBEDDED, "kubernetes": _DISCOVERED}
_URLS = {_EMBEDDED.id: LOCAL_URL, _DISCOVERED.id: IN_CLUSTER_URL}


def is_local(url: str) -> bool:
    """Whether the URL stands for this machine; any other names a cluster."""
    return not url or url.startswith("local:")


class KServeResolver:
    """Nothing needs to be started before a model is there; a cluster is asked whether KServe is installed."""

    name = "kserve"
    resources: tuple[str, ...] = RESOURCES

    def offers(self, executor: str) -> tuple[Extension, ...]:
        return (_OFFERS[executor],) if executor in _OFFERS else ()

    async def access(
        self,
        extension_id: str,
        service_id: str,
        services: Services,  # noqa: ARG002
        clusters: Clusters,
        note: Note,
    ) -> Extension:
        offer = next((each for each in _OFFERS.values() if each.id == extension_id), None)
        service = next((each for each in _SERVICES if each.id == service_id), None)
        if offer is None or service is None:
            raise NotFoundError(f"cannot give access to {extension_id}/{service_id}: kserve does not offer it")
        if offer is _DISCOVERED:
            if clusters.configured is None:
                raise StartError(
                    "cannot find KServe: no cluster is configured; set kubernetes.kubeconfig or "
                    "kubernetes.in_cluster, or drop an extension record that names a cluster with KServe"
                )
            await require_kserve(Doubting(clusters.configured, note))
        reachable = msgspec.structs.replace(service, endpoints=(Endpoint(url=_URLS[offer.id]),))
        return msgspec.structs.replace(offer, services=(reachable,))

    async def check(self, access: ServiceAccess, clusters: Clusters) -> CheckResult:
        if is_local(access.service.url):
            return CheckResult(ok=True, message="models are served on this machine")
        try:
            async with clusters.open(access) as cluster:
                await require_kserve(cluster)
        except FusemldError as error:
            return CheckResult(ok=False, message=str(error))
        return CheckResult(
            ok=True,
            message=f"{GROUP_VERSION} is served by {cluster.name}; models go to namespace {cluster.namespace}",
        )


async def require_kserve(cluster: Cluster) -> None:
    """Raises `StartError` that names what the cluster lacks."""
    try:
        found = await cluster.get(f"/apis/{GROUP_VERSION}")
    except NotFoundError as error:
        raise StartError(
            f"cannot serve models in the cluster {cluster.name}: KServe is not installed there (no API "
            f"{GROUP_VERSION}); install KServe, or drop an extension record that names a cluster which has it"
        ) from error
    if not any(each.get("name") == RESOURCE for each in found.get("resources", ())):
        raise StartError(
            f"cannot serve models in the cluster {cluster.name}: its API {GROUP_VERSION} has no {RESOURCE}; "
            "complete the installation of KServe"
        )
