"""Removes what a daemon that is not running has left in its cluster: `fusemld cleanup`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio
import msgspec

from fusemld.daemon import cluster_access
from fusemld.daemon.locking import state_lock
from fusemld.daemon.settings import Settings
from fusemld.executors.kubernetes import names
from fusemld.executors.kubernetes.sweeping import Removed, remove_everything
from fusemld.kube.client import KubeCluster
from fusemld.model.errors import InvalidInputError, StartError
from fusemld.store.keys import INSTANCE
from fusemld.store.sqlite import Store

_PAGE = "500"


class Leftovers(msgspec.Struct, frozen=True, kw_only=True):
    """What of an instance is in the namespace. `pods` are names; of Secrets only the number can be known, because
    the daemon may not read them."""

    server: str
    namespace: str
    pods: tuple[str, ...]
    secrets: int
    config_maps: int

    @property
    def is_nothing(self) -> bool:
        return not (self.pods or self.secrets or self.config_maps)


def clean_up(settings: Settings, agree: Callable[[Leftovers], bool]) -> Removed | None:
    """Look, ask whether that may go, and remove it; None where it may not. Raises `StartError` while a daemon uses
    the state folder, and where no cluster is configured or no daemon has ever run."""
    if not cluster_access.is_configured(settings):
        raise InvalidInputError("cannot clean up: no cluster is configured")
    database = settings.state / "fusemld.db"
    if not database.exists():
        raise StartError(f"cannot clean up: no daemon has used the state folder {settings.state}")
    with state_lock(settings.state):
        return anyio.run(_clean_up, settings, agree)


async def _clean_up(settings: Settings, agree: Callable[[Leftovers], bool]) -> Removed | None:
    async with Store.open(settings.state / "fusemld.db") as store:
        instance = await store.meta(INSTANCE)
        assert instance is not None, "every database has one"
        async with cluster_access.configured(settings, instance) as cluster:
            assert cluster is not None
            if not agree(await _look(cluster)):
                return None
            return await remove_everything(cluster)


async def _look(cluster: KubeCluster) -> Leftovers:
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
