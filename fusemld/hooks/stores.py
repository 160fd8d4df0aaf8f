"""Object-store access that the `s3` plugin gives to other plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from fusemld.model.extension import ServiceAccess


class StoredObject(msgspec.Struct, frozen=True, kw_only=True):
    """`key` is relative to the listed URL's bucket, `size` in bytes, `etag` as the server gave it."""

    key: str
    size: int
    etag: str


class StoreConnection(msgspec.Struct, frozen=True, kw_only=True):
    """How a store is reached. `endpoint` is None for Amazon itself. Without `access_key` requests are anonymous.
    Holds secrets."""

    endpoint: str | None
    region: str
    access_key: str | None = None
    secret_key: str | None = None
    session_token: str | None = None
    verify_tls: bool = True

    def __repr__(self) -> str:
        return f"StoreConnection(endpoint={self.endpoint!r})"


class ObjectStore(Protocol):
    """URLs are `s3://BUCKET/KEY`. Errors: `NotFoundError`, `ForbiddenError`, `UnavailableError`."""

    connection: StoreConnection
    """For those who hand access to the store on."""

    async def list(self, url: str) -> tuple[StoredObject, ...]:
        """Every object below the prefix, or the object itself."""

    async def read(self, url: str, limit_bytes: int) -> bytes:
        """A small object; `InvalidInputError` where it is larger than the limit."""

    async def download(self, url: str, folder: Path) -> None:
        """Every object below the prefix into the folder, relative names kept; atomic per file."""

    async def copy(self, source: str, target: str) -> None:
        """One object to another place in the store, which does that itself: nothing passes through here. Whoever
        reads the target sees the whole object or what was there before."""

    async def delete(self, url: str) -> None:
        """Every object below the prefix, and the object itself; what is not there is no error."""

    async def ensure_bucket(self, bucket: str) -> None: ...


class ObjectStoreFactory(Protocol):
    schemes: tuple[str, ...]

    def open(self, access: ServiceAccess) -> ObjectStore: ...
