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


class ObjectStore(Protocol):
    """URLs are `s3://BUCKET/KEY`. Errors: `NotFoundError`, `ForbiddenError`, `UnavailableError`."""

    async def list(self, url: str) -> tuple[StoredObject, ...]:
        """Every object below the prefix, or the object itself."""

    async def read(self, url: str, limit_bytes: int) -> bytes:
        """A small object; `InvalidInputError` where it is larger than the limit."""

    async def download(self, url: str, folder: Path) -> None:
        """Every object below the prefix into the folder, relative names kept; atomic per file."""

    async def ensure_bucket(self, bucket: str) -> None: ...


class ObjectStoreFactory(Protocol):
    schemes: tuple[str, ...]

    def open(self, access: ServiceAccess) -> ObjectStore: ...
