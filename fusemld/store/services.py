"""The records of embedded services, as their supervisor wants them kept."""

from __future__ import annotations

from collections.abc import Sequence

from fusemld.model.service import ServiceRecord
from fusemld.store.sqlite import DeleteService, PutService, Store


class StoredServices:
    """Implements `fusemld.services.persistence.ServicePersistence`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def load(self) -> Sequence[ServiceRecord]:
        return await self._store.services()

    async def save(self, record: ServiceRecord) -> None:
        await self._store.write(PutService(record))

    async def delete(self, name: str) -> None:
        await self._store.write(DeleteService(name))
