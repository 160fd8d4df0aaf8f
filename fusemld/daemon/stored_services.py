"""Keeps the records of services in the store: see `fusemld.services.persistence`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fusemld.model.service import ServiceRecord
from fusemld.store.changes import DeleteService, PutService
from fusemld.store.errors import StoreError
from fusemld.store.reads import SERVICES
from fusemld.store.sqlite import Store


class StoredServices:
    """A record that cannot be read is left as it is, and with it the service: what it runs is not known, so no
    other is started under its name, and it is not forgotten."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._unreadable: Mapping[str, StoreError] = {}

    async def load(self) -> Sequence[ServiceRecord]:
        found = await self._store.entries(SERVICES)
        self._unreadable = found.unreadable
        return found.readable

    async def save(self, record: ServiceRecord) -> None:
        self._demand(record.name)
        await self._store.write(PutService(record))

    async def delete(self, name: str) -> None:
        self._demand(name)
        await self._store.write(DeleteService(name))

    def _demand(self, name: str) -> None:
        if (error := self._unreadable.get(name)) is not None:
            raise StoreError(f"cannot tell what service {name} is: {error}")
