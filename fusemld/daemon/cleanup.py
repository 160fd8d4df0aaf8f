"""Removes what a daemon that is not running has left in its cluster: `fusemld cleanup`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
from msgspec.structs import replace

from fusemld.daemon import cluster_access
from fusemld.daemon.locking import state_lock
from fusemld.daemon.ownership import as_owner
from fusemld.daemon.removal import Removal
from fusemld.daemon.settings import Settings
from fusemld.executors.kubernetes import names
from fusemld.executors.kubernetes.permissions import SERVING_GROUP, SERVING_VERSION
from fusemld.executors.kubernetes.sweeping import Removed, remove_everything
from fusemld.hooks.clusters import IN_CLUSTER_URL
from fusemld.hooks.environments import Note
from fusemld.hooks.services import ServiceAddress, ServiceRequest
from fusemld.kube.client import KubeCluster
from fusemld.kube.clusters import KubeClusters
from fusemld.model.application import Application
from fusemld.model.errors import InvalidInputError, NotFoundError, StartError
from fusemld.registry.registry import Registry
from fusemld.store.changes import DeleteApplication
from fusemld.store.keys import INSTANCE
from fusemld.store.sqlite import Store

_PAGE = "500"


class Leftovers(msgspec.Struct, frozen=True, kw_only=True):
    """What of an instance is in the namespace. `pods` are names; of Secrets and ConfigMaps only the number can be
    known, because the daemon may not list them. `applications` are those with objects in this cluster, `models`
    the InferenceServices that no application names: the step that made them was never over."""

    server: str
    namespace: str
    pods: tuple[str, ...]
    secrets: int
    config_maps: int
    applications: tuple[Application, ...]
    models: tuple[str, ...]

    @property
    def is_nothing(self) -> bool:
        return not (self.pods or self.secrets or self.config_maps or self.applications or self.models)


def clean_up(
    settings: Settings, agree: Callable[[Leftovers], bool], *, keep_applications: bool = False
) -> Removed | None:
    """Look, ask whether that may go, and remove it; None where it may not. Copies of models in object stores stay.

    Raises `StartError` while a daemon uses the state folder and where none has ever done, `InvalidInputError`
    where no cluster is configured.
    """
    if not cluster_access.is_configured(settings):
        raise InvalidInputError("cannot clean up: no cluster is configured")
    if not (settings.state / "fusemld.db").exists():
        raise StartError(f"cannot clean up: no daemon has used the state folder {settings.state}")
    with as_owner(settings.state), state_lock(settings.state):
        found = anyio.run(_looked, settings, keep_applications)
        # Asked outside of the event loop, which would keep Ctrl-C from ending the question.
        return anyio.run(_removed, settings, found, keep_applications) if agree(found) else None


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncGenerator[tuple[Store, KubeCluster]]:
    async with Store.open(settings.state / "fusemld.db") as store:
        instance = await store.meta(INSTANCE)
        assert instance is not None, "every database has one"
        async with cluster_access.configured(settings, instance) as cluster:
            assert cluster is not None
            yield store, cluster


async def _looked(settings: Settings, keep_applications: bool) -> Leftovers:
    async with _opened(settings) as (store, cluster):
        applications = () if keep_applications else tuple(filter(_is_here, await store.applications()))
        models = () if keep_applications else await _models(cluster, applications)
        return await _look(cluster, applications, models)


async def _removed(settings: Settings, found: Leftovers, keep_applications: bool) -> Removed:
    async with _opened(settings) as (store, cluster):
        removal = Removal(_NoServices(), KubeClusters(cluster), Registry(), {})
        for application in found.applications:
            await removal.remove(replace(application, copies=()))
            await store.write(DeleteApplication(application.name))
        removed = await remove_everything(cluster)
        if not keep_applications:
            await _remove_models(cluster, found.models)
        return removed


async def _models(cluster: KubeCluster, applications: Iterable[Application]) -> tuple[str, ...]:
    """The InferenceServices of this instance that none of the applications names."""
    known = {reference.rpartition("/")[2] for application in applications for reference in application.objects}
    try:
        found = await cluster.get(_services(cluster), {"labelSelector": _selector(cluster)})
    except NotFoundError:  # KServe is not there
        return ()
    return tuple(sorted({item["metadata"]["name"] for item in found["items"]} - known))


async def _remove_models(cluster: KubeCluster, models: Iterable[str]) -> None:
    """With every Secret and ServiceAccount that any served model of this instance has had."""
    for name in models:
        await cluster.delete(f"{_services(cluster)}/{name}")
    for resource in ("secrets", "serviceaccounts"):
        await cluster.delete_collection(f"/api/v1/namespaces/{cluster.namespace}/{resource}", _selector(cluster))


def _services(cluster: KubeCluster) -> str:
    return f"/apis/{SERVING_GROUP}/{SERVING_VERSION}/namespaces/{cluster.namespace}/inferenceservices"


def _selector(cluster: KubeCluster) -> str:
    return ",".join(f"{name}={value}" for name, value in names.owned(cluster.instance).items())


def _is_here(application: Application) -> bool:
    is_in_configured = application.cluster is None or application.cluster.url == IN_CLUSTER_URL
    return bool(application.objects) and is_in_configured


class _NoServices:
    """Implements `fusemld.hooks.services.Services` while no daemon runs: what is in the cluster has none."""

    async def ensure(self, request: ServiceRequest, note: Note) -> ServiceAddress:  # noqa: ARG002
        raise StartError(f"cannot start {request.name}: no daemon is running")

    async def remove(self, name: str) -> None:
        raise StartError(f"cannot remove {name}: no daemon is running")

    def find(self, name: str) -> ServiceAddress | None:  # noqa: ARG002
        return None

    def folder(self, name: str) -> Path:
        raise StartError(f"cannot find {name}: no daemon is running")


async def _look(cluster: KubeCluster, applications: tuple[Application, ...], models: tuple[str, ...]) -> Leftovers:
    root = f"/api/v1/namespaces/{cluster.namespace}"
    return Leftovers(
        server=cluster.name,
        namespace=cluster.namespace,
        pods=tuple(sorted(await _pods(cluster, root))),
        secrets=await cluster.delete_collection(
            f"{root}/secrets", names.attempts_selector(cluster.instance), dry_run=True
        ),
        config_maps=await cluster.delete_collection(
            f"{root}/configmaps", names.codesets_selector(cluster.instance), dry_run=True
        ),
        applications=applications,
        models=models,
    )


async def _pods(cluster: KubeCluster, root: str) -> Sequence[str]:
    params = {"labelSelector": names.attempts_selector(cluster.instance), "limit": _PAGE}
    found: list[str] = []
    while True:
        page = await cluster.get(f"{root}/pods", params)
        found += [pod["metadata"]["name"] for pod in page.get("items") or ()]
        if not (more := (page.get("metadata") or {}).get("continue")):
            return found
        params["continue"] = more
