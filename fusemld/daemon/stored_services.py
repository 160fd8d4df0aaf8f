"""Keeps the records of services in the store: see `fusemld.services.persistence`."""

from __future__ import annotations

from collections.abc import Sequence

from fusemld.model.service import ServiceRecord
from fusemld.store.changes import DeleteService, PutService
from fusemld.store.sqlite import Store


class StoredServices:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def load(self) -> Sequence[ServiceRecord]:
        return await self._store.services()

    async def save(self, record: ServiceRecord) -> None:
        await self._store.write(PutService(record))

    async def delete(self, name: str) -> None:
        await self._store.write(DeleteService(name))
