"""What the supervisor needs of whoever stores its records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fusemld.model.service import ServiceRecord


class ServicePersistence(Protocol):
    """`save` and `delete` return once the change is durable. They raise `UnavailableError`, also for the name of a
    record that is there and that `load` could not give."""

    async def load(self) -> Sequence[ServiceRecord]: ...

    async def save(self, record: ServiceRecord) -> None:
        """Insert, or replace the record of that name."""

    async def delete(self, name: str) -> None:
        """Unknown names are ignored."""
