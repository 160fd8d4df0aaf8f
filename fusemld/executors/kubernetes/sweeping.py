"""Removes what nobody will ask for any more."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import anyio
import msgspec
import structlog

from fusemld.executors.kubernetes import names
from fusemld.hooks.clusters import Json, Refusals
from fusemld.kube.client import KubeCluster
from fusemld.model.backoff import backoff_s
from fusemld.model.errors import ForbiddenError, FusemldError, UnavailableError

_log: structlog.stdlib.BoundLogger = structlog.get_logger()

_MOST_NAMED = 500
"""Runs in a label selector, which travels in an URL."""
_PAGE = "500"
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """How many there were."""

    pods: int
    secrets: int
    config_maps: int


async def remove_everything(cluster: KubeCluster) -> Removed:
    """Remove every pod, Secret and ConfigMap that the daemon of this instance made for attempts, in its namespace.
    Pods get their time to stop and may be seen for a while. The daemon must not be running."""
    root = f"/api/v1/namespaces/{cluster.namespace}"
    slots = anyio.CapacityLimiter(cluster.pace.most)
    removed = 0

    async def remove(name: str, uid: str) -> None:
        nonlocal removed
        async with slots:
            was_there = await cluster.delete(f"{root}/pods/{name}", uid=uid)
        removed += was_there

    async with anyio.create_task_group() as tasks:
        async for pod in _pods(cluster, root):
            metadata = pod["metadata"]
            tasks.start_soon(remove, metadata["name"], metadata["uid"], name=f"remove {metadata['name']}")
    instance = cluster.instance
    return Removed(
        pods=removed,
        secrets=await cluster.delete_collection(f"{root}/secrets", names.attempts_selector(instance)),
        config_maps=await cluster.delete_collection(f"{root}/configmaps", names.codesets_selector(instance)),
    )


async def sweep_secrets(cluster: KubeCluster, kept: Iterable[str]) -> None:
    """Remove the Secrets of all runs of this instance but those in `kept`; none where these are more than a
    selector names. Nothing may create one meanwhile."""
    runs = sorted({names.label_value(run) for run in kept})
    if len(runs) > _MOST_NAMED:
        _log.warning(
            "secrets.not_swept",
            error=f"{len(runs)} runs have steps under way, and one look names only "
            f"{_MOST_NAMED}; the next start of the daemon tries again",
        )
        return
    selector = names.attempts_selector(cluster.instance)
    if runs:
        selector += f",{names.RUN} notin ({','.join(runs)})"
    count = await cluster.delete_collection(f"/api/v1/namespaces/{cluster.namespace}/secrets", selector)
    if count:
        _log.info("secrets.swept", secrets=count)


async def insist(
    event: str, sweep: Callable[[], Awaitable[None]], clock: Callable[[], float] = time.monotonic
) -> None:
    """Sweep once the API server answers. One that it has not allowed for `REFUSED_S` stops nobody: it is logged as
    `event`."""
    tries = 0
    refusals = Refusals()
    while True:
        try:
            return await sweep()
        except UnavailableError:
            refusals.end()
        except ForbiddenError as error:
            if refusals.are_believed(clock()):
                _log.warning(event, error=str(error))
                return None
        except FusemldError as error:
            _log.warning(event, error=str(error))
            return None
        tries += 1
        await anyio.sleep(backoff_s(tries, _FIRST_PAUSE_S, _LONGEST_PAUSE_S))


async def _pods(cluster: KubeCluster, root: str) -> AsyncIterator[Json]:
    params = {"labelSelector": names.attempts_selector(cluster.instance), "limit": _PAGE}
    while True:
        page = await cluster.get(f"{root}/pods", params)
        for pod in page.get("items") or ():
            yield pod
        if not (more := (page.get("metadata") or {}).get("continue")):
            return
        params["continue"] = more
