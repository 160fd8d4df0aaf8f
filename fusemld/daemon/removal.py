"""What an application has outside of the database, and how it is removed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import msgspec
import structlog

from fusemld.hooks.clusters import IN_CLUSTER_URL, INSTANCE, Cluster, Clusters, Json
from fusemld.hooks.services import Services
from fusemld.hooks.stores import ObjectStore, ObjectStoreFactory
from fusemld.model.application import Application
from fusemld.model.errors import ConflictError, ForbiddenError, FusemldError, NotFoundError, StartError
from fusemld.model.extension import ServiceAccess
from fusemld.registry.registry import Registry

log = structlog.get_logger(__name__)


class _Reference(msgspec.Struct, frozen=True, kw_only=True):
    api_version: str
    kind: str
    namespace: str
    name: str

    @property
    def api(self) -> str:
        return f"/api/{self.api_version}" if self.api_version == "v1" else f"/apis/{self.api_version}"


class Removal:
    """Safe to repeat: what is gone already is fine, so a removal that was interrupted is finished by the next."""

    def __init__(
        self,
        services: Services,
        clusters: Clusters,
        registry: Registry,
        object_stores: Mapping[str, ObjectStoreFactory],
    ) -> None:
        self._services = services
        self._clusters = clusters
        self._registry = registry
        self._object_stores = object_stores

    async def remove(self, application: Application, *, orphan: bool = False) -> None:
        """Its objects in their cluster (those that this daemon made), its services, and its copies in the object
        store. With `orphan` only its services: the rest is left where it is, reachable or not.

        Raises `UnavailableError` where they cannot be reached now, `ConflictError` where nobody can tell any
        more how.
        """
        if application.objects and not orphan:
            await self._remove_objects(application)
        for service in application.services:
            await self._services.remove(service)
        if application.copies and not orphan:
            await self._remove_copies(application)
        if orphan:
            left = [*application.objects, *application.copies]
            log.warning("application.orphaned", application=application.name, left=left)

    async def remove_replaced(self, before: Application, now: Application) -> None:
        """The copies of an application that its update does not use any more: its model lies in another bucket.
        What cannot be removed stays."""
        left = tuple(url for url in before.copies if url not in now.copies)
        if not left:
            return
        try:
            await self._remove_copies(msgspec.structs.replace(before, copies=left))
        except FusemldError as error:
            log.warning("application.copies_stay", application=before.name, copies=left, error=str(error))

    async def _remove_objects(self, application: Application) -> None:
        async with self._cluster(application) as cluster:
            found = [await _remove_object(cluster, _reference(text)) for text in application.objects]
            if not any(found) and application.server and application.server != cluster.name:
                raise ConflictError(
                    f"cannot delete application {application.name}: it was made in the cluster "
                    f"{application.server}, and the cluster {cluster.name}, which is used now, has none of "
                    "its objects; `--orphan` forgets it and leaves them"
                )

    @asynccontextmanager
    async def _cluster(self, application: Application) -> AsyncGenerator[Cluster]:
        service = application.cluster
        try:
            if service is None or service.url == IN_CLUSTER_URL:
                if self._clusters.configured is None:
                    raise StartError("no cluster is configured any more")
                access = None
            else:
                access = await self._registry.again(service, services=self._services, note=_unheard)
        except (NotFoundError, StartError) as error:
            raise ConflictError(
                f"cannot delete application {application.name}: its cluster cannot be found again ({error}); "
                "configure or register it as it was when the application was made, or leave what is there with "
                "--orphan"
            ) from error
        if access is None:
            assert self._clusters.configured is not None
            yield self._clusters.configured
            return
        async with self._clusters.open(access) as cluster:
            yield cluster

    async def _remove_copies(self, application: Application) -> None:
        """What cannot be reached for good stays: it serves nobody any more, and costs space only."""
        try:
            store = await self._store(application)
        except (NotFoundError, StartError) as error:
            log.warning("application.copies_stay", application=application.name, error=str(error))
            return
        for url in application.copies:
            try:
                await store.delete(url)
            except ForbiddenError as error:
                log.warning("application.copies_stay", application=application.name, url=url, error=str(error))

    async def _store(self, application: Application) -> ObjectStore:
        factory = self._object_stores.get("s3")
        if factory is None or application.store is None:
            raise StartError("no plugin gives access to its object store")
        access: ServiceAccess = await self._registry.again(
            application.store, services=self._services, note=_unheard
        )
        return factory.open(access)


async def _remove_object(cluster: Cluster, reference: _Reference) -> bool:
    """Whether it was there and is this daemon's; what is somebody else's stays."""
    try:
        resources: Json = await cluster.get(reference.api)
    except NotFoundError:
        return False  # without its API there is no object either
    plural = next(
        (
            each["name"]
            for each in resources["resources"]
            if each["kind"] == reference.kind and "/" not in each["name"]
        ),
        None,
    )
    if plural is None:
        return False
    path = f"{reference.api}/namespaces/{reference.namespace}/{plural}/{reference.name}"
    found = await _read(cluster, path)
    if found is None:
        return False
    metadata = found["metadata"]
    if (metadata.get("labels") or {}).get(INSTANCE) != cluster.instance:
        log.warning("application.object_stays", path=path, reason="it was not made by this daemon")
        return False
    await cluster.delete(path, uid=metadata["uid"])
    return True


async def _read(cluster: Cluster, path: str) -> Json | None:
    """An empty patch reads what may be written, where reading is not granted (Secrets)."""
    try:
        try:
            return await cluster.get(path)
        except ForbiddenError:
            return await cluster.patch(path, {})
    except NotFoundError:
        return None


def _reference(text: str) -> _Reference:
    api_version, kind, namespace, name = text.rsplit("/", 3)
    return _Reference(api_version=api_version, kind=kind, namespace=namespace, name=name)


def _unheard(text: str) -> None:
    """Nobody watches a deletion's progress."""
