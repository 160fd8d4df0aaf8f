"""Removes pods and Secrets of attempts that are over, however long the API server is away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVarTuple

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup, TaskStatus

from fusemld.hooks.clusters import Json
from fusemld.kube.pace import Pace
from fusemld.model import faults
from fusemld.model.backoff import backoff_s
from fusemld.model.errors import FusemldError, NotFoundError, UnavailableError

_log: structlog.stdlib.BoundLogger = structlog.get_logger()

Ts = TypeVarTuple("Ts")

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 60.0


class Cluster(Protocol):
    """What is needed of `fusemld.kube.client.KubeCluster`."""

    namespace: str

    @property
    def pace(self) -> Pace: ...

    async def get(self, path: str) -> Json: ...

    async def delete(self, path: str, *, uid: str | None = None, grace_s: int | None = None) -> bool: ...

    async def delete_collection(self, path: str, selector: str) -> int: ...


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """What is to go of an attempt: its Secret and its pod, of the same name. A Secret that nobody here has created
    or seen used goes only if `secret_selector` chooses it, a pod whose `uid` is not known only if `is_ours` says
    so. `is_watched`: somebody tells when it is gone."""

    name: str
    secret: bool = False
    secret_selector: str = ""
    pod: bool = False
    uid: str | None = None
    is_watched: bool = True
    is_ours: Callable[[Json], bool] | None = None


class Remover:
    """`removing` are the names of the pods that are on their way out, until `gone` is told. `stays_for_s` says how
    long a pod is kept for people to look at."""

    def __init__(self, cluster: Cluster, stays_for_s: Callable[[Json], float]) -> None:
        self.removing: set[str] = set()
        self._cluster = cluster
        self._stays_for_s = stays_for_s
        self._root = f"/api/v1/namespaces/{cluster.namespace}"
        # Of thousands, the rest is not in the way of what others ask for, and its time does not run yet.
        self._slots = anyio.CapacityLimiter(cluster.pace.most)
        self._tasks: TaskGroup | None = None

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Serve until cancelled."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            task_status.started()
            await anyio.sleep_forever()

    def add(self, removal: Removal) -> None:
        """Returns at once, as `dismiss` does."""
        if removal.pod:
            self.removing.add(removal.name)
        self._start(self._remove, removal)

    def dismiss(self, found: Json, *, secret: bool) -> None:
        """Nobody needs the pod, nor its Secret, any more. The pod may stay for a while."""
        metadata = found["metadata"]
        name, uid = metadata["name"], metadata["uid"]
        self.removing.add(name)
        is_going = "deletionTimestamp" in metadata
        left_s = 0.0 if is_going else self._stays_for_s(found)
        if not is_going and left_s <= 0:
            self.add(Removal(name=name, secret=secret, pod=True, uid=uid))
            return
        if secret:
            self.add(Removal(name=name, secret=True))
        if not is_going:
            self._start(self._remove_later, Removal(name=name, pod=True, uid=uid), left_s)

    def gone(self, name: str) -> None:
        self.removing.discard(name)

    def _start(
        self, work: Callable[[Removal, *Ts], Coroutine[Any, Any, None]], removal: Removal, *more: *Ts
    ) -> None:
        assert self._tasks is not None, "nothing is removed before `run`"
        self._tasks.start_soon(work, removal, *more, name=f"remove {removal.name}")

    async def _remove_later(self, removal: Removal, left_s: float) -> None:
        await anyio.sleep(left_s)
        if removal.name in self.removing:
            await self._remove(removal)

    async def _remove(self, removal: Removal) -> None:
        """In this order: a Secret without its pod would be forgotten if the daemon were killed in between."""
        if removal.secret:
            await self._insist(removal.name, lambda: self._delete_secret(removal))
            faults.point("kubernetes.secret_deleted")
        if removal.pod:
            await self._insist(removal.name, lambda: self._delete_pod(removal))
            faults.point("kubernetes.pod_deleted")

    async def _delete_secret(self, removal: Removal) -> None:
        if removal.secret_selector:
            await self._cluster.delete_collection(f"{self._root}/secrets", removal.secret_selector)
        else:
            await self._cluster.delete(f"{self._root}/secrets/{removal.name}")

    async def _delete_pod(self, removal: Removal) -> None:
        path = f"{self._root}/pods/{removal.name}"
        uid = removal.uid
        if uid is None:
            try:
                found = await self._cluster.get(path)
            except NotFoundError:
                found = None
            if found is None or removal.is_ours is None or not removal.is_ours(found):
                self.gone(removal.name)
                return
            uid = found["metadata"]["uid"]
        is_going = await self._cluster.delete(path, uid=uid)
        if not is_going or not removal.is_watched:
            self.gone(removal.name)

    async def _insist(self, name: str, request: Callable[[], Awaitable[None]]) -> None:
        """Until it is done: what stands in the way (an API server that is away, permissions) may pass."""
        tries = 0
        is_told = False
        while True:
            try:
                async with self._slots:
                    return await request()
            except FusemldError as error:
                tries += 1
                if not is_told and not isinstance(error, UnavailableError):
                    is_told = True
                    _log.warning("pod.not_removed", name=name, error=str(error))
            await anyio.sleep(backoff_s(tries, _FIRST_PAUSE_S, _LONGEST_PAUSE_S))
