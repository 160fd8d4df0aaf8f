"""What predictor steps leave behind: recorded, listed and deleted."""

from __future__ import annotations

import anyio

from fusemld.daemon.removal import Removal
from fusemld.model import faults
from fusemld.model.application import Application
from fusemld.model.errors import ConflictError, NotFoundError
from fusemld.store.changes import DeleteApplication, PutApplication
from fusemld.store.reads import APPLICATIONS
from fusemld.store.sqlite import Store


class ApplicationBook:
    """Implements `fusemld.hooks.steps.Applications` over the store."""

    def __init__(self, store: Store, removal: Removal) -> None:
        self._store = store
        self._removal = removal
        self._lock = anyio.Lock()

    async def all(self) -> list[Application]:
        """Those that can be read, by name."""
        found = await self._store.entries(APPLICATIONS)
        return sorted(found.readable, key=lambda application: application.name)

    async def get(self, name: str) -> Application | None:
        """Raises `DamagedError` for one that cannot be read: it must not be taken for one that is not there."""
        found = await self._store.entries(APPLICATIONS)
        if (error := found.unreadable.get(name)) is not None:
            raise error
        return next((entry for entry in found.readable if entry.name == name), None)

    async def record(self, application: Application) -> None:
        async with self._lock:
            known = await self.get(application.name)
            if known is not None and known.run_created_at > application.run_created_at:
                raise ConflictError(
                    f"cannot update application {application.name}: the newer run {known.run} has updated it"
                )
            if known is not None:  # before it is forgotten: whoever is killed here does it again
                await self._removal.remove_replaced(known, application)
                faults.point("application.replaced")
            await self._store.write(PutApplication(application))

    async def delete(self, name: str, *, orphan: bool = False) -> None:
        """Remove what belongs to it, then forget it: killed in between, or where something cannot be reached
        now, it stays and can be deleted again. With `orphan` what it has elsewhere is left there."""
        async with self._lock:
            known = await self.get(name)
            if known is None:
                raise NotFoundError(f"cannot delete application {name}: there is none of that name")
            await self._removal.remove(known, orphan=orphan)
            faults.point("application.removed")
            await self._store.write(DeleteApplication(name))
