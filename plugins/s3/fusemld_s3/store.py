"""A client of S3 object stores over aiobotocore, which is imported only when a store is really used."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from fusemld.hooks.stores import ObjectStore, StoreConnection, StoredObject
from fusemld.model.errors import (
    ForbiddenError,
    FusemldError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from fusemld.model.extension import ServiceAccess
from fusemld_s3.settings import connection

_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 30
_TRANSFERS = 8
_CHUNK_BYTES = 1024 * 1024
COPY_PART_BYTES = 512 * 1024**2
_TOO_LARGE = frozenset({"InvalidRequest", "EntityTooLarge"})
"""What is said to one request for more than 5 GiB, by Amazon and by others."""

_NOT_FOUND = frozenset({"NoSuchBucket", "NoSuchKey", "NotFound", "404"})
_FORBIDDEN = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "403"})


class S3StoreFactory:
    schemes: tuple[str, ...] = ("s3",)

    def open(self, access: ServiceAccess) -> ObjectStore:
        return S3Store(connection(access))


class S3Store:
    """See `ObjectStore`. Stateless: every call opens its own connections and closes them."""

    def __init__(self, connection: StoreConnection) -> None:
        self.connection = connection

    async def list(self, url: str) -> tuple[StoredObject, ...]:
        bucket, key = split_url(url)
        async with self._client(f"list {url}") as client:
            return await _objects(client, bucket, key)

    async def read(self, url: str, limit_bytes: int) -> bytes:
        bucket, key = split_url(url)
        async with self._client(f"read {url}") as client:
            answer = await client.get_object(Bucket=bucket, Key=key)
            async with answer["Body"] as body:
                if answer["ContentLength"] > limit_bytes:
                    raise InvalidInputError(f"cannot read {url}: it is larger than {limit_bytes} bytes")
                content: bytes = await body.read()
                return content

    async def download(self, url: str, folder: Path) -> None:
        """Raises `NotFoundError` where nothing is there and `InvalidInputError` for a key that would leave
        the folder; then nothing was written."""
        bucket, key = split_url(url)
        limiter = anyio.CapacityLimiter(_TRANSFERS)
        async with self._client(f"download {url}") as client:
            objects = [found for found in await _objects(client, bucket, key) if not found.key.endswith("/")]
            if not objects:
                raise NotFoundError(f"cannot download {url}: there is nothing")
            targets = [(found.key, target_path(folder, found.key, key)) for found in objects]
            failures: list[BaseException] = []

            async def fetch(source: str, target: Path) -> None:
                async with limiter:
                    if not failures:
                        try:
                            await _fetch(client, bucket, source, target)
                        except Exception as error:  # noqa: BLE001 - raised again below, without a group around it
                            failures.append(error)

            async with anyio.create_task_group() as group:
                for source, target in targets:
                    group.start_soon(fetch, source, target, name=f"download {source}")
            if failures:
                raise failures[0]

    async def copy(self, source: str, target: str) -> None:
        (from_bucket, from_key), (bucket, key) = split_url(source), split_url(target)
        origin = {"Bucket": from_bucket, "Key": from_key}
        async with self._client(f"copy {source} to {target}") as client:
            try:
                await client.copy_object(CopySource=origin, Bucket=bucket, Key=key)
            except client.exceptions.ClientError as error:
                if error.response["Error"].get("Code") not in _TOO_LARGE:
                    raise
                await _copy_parts(client, origin, {"Bucket": bucket, "Key": key})

    async def delete(self, url: str) -> None:
        bucket, key = split_url(url)
        async with self._client(f"delete {url}") as client:
            try:
                found = await _objects(client, bucket, key)
            except client.exceptions.NoSuchBucket:
                return
            # one by one: older servers refuse the deletion of several without a checksum that newer clients omit
            for entry in found:
                await client.delete_object(Bucket=bucket, Key=entry.key)

    async def ensure_bucket(self, bucket: str) -> None:
        async with self._client(f"create the bucket {bucket}") as client:
            if bucket not in await _bucket_names(client):
                await client.create_bucket(Bucket=bucket)

    async def buckets(self) -> tuple[str, ...]:
        async with self._client("list the buckets") as client:
            return await _bucket_names(client)

    @asynccontextmanager
    async def _client(self, what: str) -> AsyncIterator[Any]:
        """An S3 client; the library's errors leave the block as ours, saying what could not be done."""
        await anyio.to_thread.run_sync(_session)
        from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
        from botocore import UNSIGNED  # type: ignore[import-untyped]
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

        here = self.connection
        config = AioConfig(
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=_READ_TIMEOUT_S,
            retries={"total_max_attempts": 2},
            s3={"addressing_style": "path"},
            signature_version=None if here.access_key else UNSIGNED,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        opened = _session().create_client(
            "s3",
            region_name=here.region,
            endpoint_url=here.endpoint,
            aws_access_key_id=here.access_key,
            aws_secret_access_key=here.secret_key,
            aws_session_token=here.session_token,
            verify=here.verify_tls,
            config=config,
        )
        where = here.endpoint or "Amazon S3"
        try:
            async with opened as client:
                yield client
        except ClientError as error:
            raise _translated(error, f"cannot {what} at {where}") from error
        except BotoCoreError as error:
            raise UnavailableError(f"cannot {what} at {where}: {error}") from error
        except OSError as error:
            raise UnavailableError(f"cannot {what} at {where}: {error}") from error


def split_url(url: str) -> tuple[str, str]:
    """Bucket and key of `s3://BUCKET/KEY`; raises `InvalidInputError`."""
    parts = urlsplit(url, allow_fragments=False)
    if parts.scheme != "s3" or not parts.netloc:
        raise InvalidInputError(f"{url!r} is not an address in an object store: write s3://BUCKET/KEY")
    return parts.netloc, parts.path.lstrip("/") + (f"?{parts.query}" if parts.query else "")


@cache
def _session() -> Any:
    """Shared, because it caches the description of the API (a second to load)."""
    from aiobotocore.session import get_session  # type: ignore[import-untyped]

    return get_session()


async def _objects(client: Any, bucket: str, key: str) -> tuple[StoredObject, ...]:
    below = key if key.endswith("/") or not key else f"{key}/"
    found: list[StoredObject] = []
    async for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key):
        for entry in page.get("Contents", ()):
            name = entry["Key"]
            if name == key or name.startswith(below):
                found.append(StoredObject(key=name, size=entry["Size"], etag=entry.get("ETag", "").strip('"')))
    return tuple(found)


async def _copy_parts(client: Any, origin: dict[str, str], target: dict[str, str]) -> None:
    size: int = (await client.head_object(**origin))["ContentLength"]
    upload = (await client.create_multipart_upload(**target))["UploadId"]
    try:
        parts = []
        for number, start in enumerate(range(0, size, COPY_PART_BYTES), start=1):
            last = min(start + COPY_PART_BYTES, size) - 1
            answer = await client.upload_part_copy(
                CopySource=origin,
                CopySourceRange=f"bytes={start}-{last}",
                PartNumber=number,
                UploadId=upload,
                **target,
            )
            parts.append({"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]})
        await client.complete_multipart_upload(MultipartUpload={"Parts": parts}, UploadId=upload, **target)
    except BaseException:
        with anyio.move_on_after(_READ_TIMEOUT_S, shield=True):
            await client.abort_multipart_upload(UploadId=upload, **target)
        raise


async def _bucket_names(client: Any) -> tuple[str, ...]:
    return tuple(bucket["Name"] for bucket in (await client.list_buckets())["Buckets"])


def target_path(folder: Path, key: str, prefix: str) -> Path:
    """Where the object belongs; a name that is not plainly below the folder is refused."""
    name = key.removeprefix(prefix).lstrip("/") if key != prefix else PurePosixPath(key).name
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in parts):
        raise InvalidInputError(f"cannot download the object {key!r}: its name would leave the folder")
    return folder.joinpath(*parts)


async def _fetch(client: Any, bucket: str, key: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    answer = await client.get_object(Bucket=bucket, Key=key)
    try:
        async with answer["Body"] as body, await anyio.open_file(partial, "wb") as file:
            async for chunk in body.iter_chunks(_CHUNK_BYTES):
                await file.write(chunk)
        if partial.stat().st_size != answer["ContentLength"]:
            raise UnavailableError(f"cannot download {key}: the connection ended early")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _translated(error: Any, what: str) -> FusemldError:
    """By the code of the answer; the text is the server's and holds no credentials."""
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    text = f"{what}: {error.response.get('Error', {}).get('Message') or code or status}"
    if code in _NOT_FOUND or status == 404:
        return NotFoundError(text)
    if code in _FORBIDDEN or status in (401, 403):
        return ForbiddenError(text)
    if status >= 500 or status == 429:
        return UnavailableError(text)
    return InvalidInputError(text)
