"""The objects of an application in its cluster: those of somebody else are never touched."""

from __future__ import annotations

from fusemld.hooks.clusters import INSTANCE, MANAGED_BY, Cluster, Json
from fusemld.model.errors import ConflictError, NotFoundError, UnavailableError
from fusemld_kserve import manifests
from fusemld_kserve.manifests import Owner, Place


class OwnObjects:
    def __init__(self, cluster: Cluster, owner: Owner) -> None:
        self._cluster = cluster
        self._owner = owner

    async def service(self, place: Place) -> Json | None:
        """The service as it is, if the owner's run may update it. Raises `ConflictError` where it may not."""
        try:
            found = await self._cluster.get(place.path)
        except NotFoundError:
            return None
        self._refuse_foreign(found, place)
        if manifests.created_at(found) > self._owner.run_created_at:
            run = manifests.annotation(found, manifests.RUN)
            raise ConflictError(
                f"cannot update application {self._owner.application}: the newer run {run} has updated it, "
                "and its model stays"
            )
        if found["metadata"].get("deletionTimestamp"):
            raise UnavailableError(f"cannot update {place.reference}: it is being deleted")
        return found

    async def apply(self, place: Place, manifest: Json) -> None:
        """Raises `ConflictError` where somebody else has an object of that name."""
        found = await self._read(place)
        if found is not None:
            self._refuse_foreign(found, place)
        await self._cluster.apply(place.path, manifest)

    async def delete(self, place: Place) -> None:
        """Unless it is somebody else's."""
        found = await self._read(place)
        if found is not None and self.is_ours(found):
            await self._cluster.delete(place.path, uid=found["metadata"]["uid"])

    def is_ours(self, found: Json) -> bool:
        return manifests.label(found, INSTANCE) == self._owner.instance

    async def _read(self, place: Place) -> Json | None:
        """An empty patch reads what may be written, also where Secrets may not be read."""
        try:
            return await self._cluster.patch(place.path, {})
        except NotFoundError:
            return None

    def _refuse_foreign(self, found: Json, place: Place) -> None:
        if self.is_ours(found):
            return
        owner, manager = manifests.label(found, INSTANCE), manifests.label(found, MANAGED_BY)
        whose = f"belongs to another fusemld ({owner})" if owner else "was not made by fusemld"
        whose += f" but by {manager}" if manager and not owner else ""
        raise ConflictError(
            f"cannot serve {self._owner.application}: the {place.kind} {place.namespace}/{place.name} {whose}, "
            "and stays as it is; set another app_name"
        )
