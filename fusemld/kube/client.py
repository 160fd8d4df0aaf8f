"""One API server, spoken to in raw JSON."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from http import HTTPStatus
from typing import Final

import aiohttp
import anyio
import msgspec

from fusemld.hooks.clusters import MANAGER, Json
from fusemld.kube import answers, paths
from fusemld.kube.access import Access, AccessSource
from fusemld.kube.gate import Gate
from fusemld.model.backoff import backoff_s
from fusemld.model.errors import (
    ConflictError,
    NotFoundError,
    StartError,
    UnavailableError,
)

_JSON: Final = "application/json"
_MERGE_PATCH: Final = "application/merge-patch+json"
_APPLY_PATCH: Final = "application/apply-patch+yaml"
# The words of k8s.io/apiserver/pkg/registry/rest/delete.go and of .../pkg/storage/interfaces.go; there is no code.
_IS_ANOTHER: Final = re.compile(r"UID in (the )?precondition")
_READ_TRIES: Final = 4
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0
_RENEWALS_APART_S: Final = 5.0


class SilentError(UnavailableError):
    """nothing came for as long as was allowed"""


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    verb: str
    """As in RBAC rules."""
    method: str
    path: str
    params: Mapping[str, str] = {}
    body: bytes | None = None
    content_type: str = _JSON
    streams: bool = False
    silence_s: float | None = None

    @property
    def doing(self) -> str:
        return f"{self.verb} {self.path}"


class KubeCluster:
    """Implements `fusemld.hooks.clusters.Cluster`, and what our own parts need beyond it.

    Made by `fusemld.kube.connecting.connect`.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        source: AccessSource,
        access: Access,
        gate: Gate,
        *,
        namespace: str,
        instance: str,
        timeout_s: float,
    ) -> None:
        self.name = access.server
        self.namespace = namespace
        self.instance = instance
        self.requests: Counter[str] = Counter()
        """Requests sent so far by verb and resource: `create pods`, `watch pods`, `get pods/log`."""
        self.gate = gate
        self._session = session
        self._source = source
        self._access = access
        self._renewing = anyio.Lock()
        self._renewed_at = float("-inf")
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"KubeCluster({self.name!r})"

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Json:
        return _decoded(path, await self.read(path, params))

    async def read(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        """The body of a GET as it is."""
        verb = "get" if paths.resource(path)[1] else "list"
        _, body = await self._send(_Request(verb=verb, method="GET", path=path, params=params or {}))
        return body

    async def create(self, path: str, body: Json, params: Mapping[str, str] | None = None) -> Json:
        return await self._write("create", "POST", path, body, params)

    async def apply(self, path: str, body: Json, *, force: bool = True) -> Json:
        params = {"fieldManager": MANAGER, "force": "true" if force else "false"}
        return await self._write("patch", "PATCH", path, body, params, _APPLY_PATCH)

    async def patch(self, path: str, body: Json, *, subresource: str = "") -> Json:
        path = f"{path}/{subresource}" if subresource else path
        return await self._write("patch", "PATCH", path, body, {"fieldManager": MANAGER}, _MERGE_PATCH)

    async def delete(
        self, path: str, *, uid: str | None = None, grace_s: int | None = None, propagation: str = "Background"
    ) -> bool:
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        try:
            await self._write("delete", "DELETE", path, options)
        except NotFoundError:
            return False
        except ConflictError as error:
            if uid is not None and _IS_ANOTHER.search(str(error)):
                return False
            raise
        return True

    async def delete_collection(self, path: str, selector: str, *, dry_run: bool = False) -> int:
        """Delete what the label selector chooses of a collection; how many there were. `dry_run`: they stay."""
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if dry_run:
            options["dryRun"] = ["All"]
        answer = await self._write("deletecollection", "DELETE", path, options, {"labelSelector": selector})
        return len(answer.get("items") or ())

    def states(self, path: str, name: str) -> AbstractAsyncContextManager[AsyncGenerator[Json | None]]:
        from fusemld.kube.states import states  # it stands on this module

        return states(self, path, name)

    @asynccontextmanager
    async def logs(
        self, path: str, *, params: Mapping[str, str] | None = None, silence_s: float | None = None
    ) -> AsyncGenerator[AsyncIterator[bytes]]:
        """The bytes of a pod's log (`path` ends in `/pods/NAME/log`) as they come, without a limit in time.

        Silence is normal where a log is followed; `silence_s` says that it is not. A dead connection is found by
        the kernel. Iterating raises `UnavailableError` where the connection breaks.
        """
        request = _Request(
            verb="get", method="GET", path=path, params=params or {}, streams=True, silence_s=silence_s
        )
        async with self._stream(request) as chunks:
            yield chunks

    @asynccontextmanager
    async def watch(
        self, path: str, *, params: Mapping[str, str], silence_s: float
    ) -> AsyncGenerator[AsyncIterator[list[bytes]]]:
        """The lines of a watch of a collection, as many at a time as came together; ends where the server ends it.

        Iterating raises `UnavailableError` where the connection breaks, `SilentError` where nothing comes for
        `silence_s`. Opening raises `ExpiredError` where the server no longer knows the version. A last line
        without its end is dropped.
        """
        params = {**params, "watch": "true"}
        request = _Request(verb="watch", method="GET", path=path, params=params, streams=True, silence_s=silence_s)
        async with self._stream(request) as chunks, aclosing(_lines(chunks)) as lines:
            yield lines

    @asynccontextmanager
    async def _stream(self, request: _Request) -> AsyncGenerator[AsyncIterator[bytes]]:
        response, _ = await self._send(request)
        try:
            async with aclosing(_chunks(request, response)) as chunks:
                yield chunks
        finally:
            _leave(response)

    async def _write(
        self,
        verb: str,
        method: str,
        path: str,
        body: Json,
        params: Mapping[str, str] | None = None,
        content_type: str = _JSON,
    ) -> Json:
        encoded = msgspec.json.encode(body)
        _, answer = await self._send(
            _Request(
                verb=verb, method=method, path=path, params=params or {}, body=encoded, content_type=content_type
            )
        )
        return _decoded(path, answer)

    async def _send(self, request: _Request) -> tuple[aiohttp.ClientResponse, bytes]:
        """The response, its body read unless it streams; repeated where that is safe, within the time allowed.

        Safe: what the server refused to begin with (429, 503 with `Retry-After`, once 401), and reads.
        """
        problem = "no answer"
        failures = 0
        was_renewed = False
        with anyio.move_on_after(self._timeout_s):
            while True:
                access = await self._admission(request)
                async with self.gate.passing() as started_at:
                    try:
                        response, body = await self._exchange(request, access)
                    except (aiohttp.ClientError, OSError) as error:
                        failures += 1
                        problem = str(error) or type(error).__name__
                        if request.method != "GET" or failures == _READ_TRIES:
                            raise UnavailableError(f"cannot {request.doing}: {problem}") from error
                        response = None
                if response is None:
                    await anyio.sleep(backoff_s(failures, _FIRST_PAUSE_S, _LONGEST_PAUSE_S))
                    continue
                status = response.status
                if status < HTTPStatus.MULTIPLE_CHOICES:
                    self.gate.served()
                    return response, body
                problem = answers.words(body, f"HTTP status {status}")
                retry_after = response.headers.get("Retry-After")
                if status == HTTPStatus.UNAUTHORIZED and not was_renewed:
                    was_renewed = True
                    if await self._renew(request, access, force=True):
                        continue
                if answers.is_refusal(status, retry_after):
                    self.gate.refused(started_at, answers.retry_after_s(retry_after))
                    continue
                if status >= HTTPStatus.INTERNAL_SERVER_ERROR and request.method == "GET":
                    failures += 1
                    if failures < _READ_TRIES:
                        await anyio.sleep(backoff_s(failures, _FIRST_PAUSE_S, _LONGEST_PAUSE_S))
                        continue
                raise answers.error(request.doing, status, problem)
        raise UnavailableError(f"cannot {request.doing} within {self._timeout_s:g} s: {problem}")

    async def _exchange(self, request: _Request, access: Access) -> tuple[aiohttp.ClientResponse, bytes]:
        self.requests[f"{request.verb} {paths.resource(request.path)[0]}"] += 1
        headers = [("Accept", _JSON), *access.impersonation]
        if access.authorization:
            headers.append(("Authorization", access.authorization))
        if request.body is not None:
            headers.append(("Content-Type", request.content_type))
        response = await self._session.request(
            request.method,
            access.server + request.path,
            params=request.params,
            data=request.body,
            headers=headers,
            ssl=access.tls if access.tls is not None else True,
            server_hostname=access.server_name,
            proxy=access.proxy,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_read=request.silence_s),
        )
        if request.streams and response.status < HTTPStatus.MULTIPLE_CHOICES:
            return response, b""
        async with response:
            return response, await response.read()

    async def _admission(self, request: _Request) -> Access:
        renew_at = self._access.renew_at
        if renew_at is not None and time.time() >= renew_at:
            await self._renew(request, self._access, force=False)
        return self._access

    async def _renew(self, request: _Request, used: Access, *, force: bool) -> bool:
        """Whether there are other credentials now than those `used`; somebody else may have asked for them."""
        async with self._renewing:
            if self._access is not used:
                return True
            if force and anyio.current_time() < self._renewed_at + _RENEWALS_APART_S:
                return False
            self._renewed_at = anyio.current_time()
            try:
                self._access = await self._source.load()
            except StartError as error:
                raise UnavailableError(f"cannot {request.doing}: {error}") from error
            return True


def _decoded(path: str, body: bytes) -> Json:
    try:
        return msgspec.json.decode(body, type=dict)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnavailableError(f"cannot understand the answer for {path}: {error}") from error


def _leave(response: aiohttp.ClientResponse) -> None:
    """Closes at once: closing TLS politely waits for the server, which may be the one that has gone silent."""
    if (connection := response.connection) is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()


async def _chunks(request: _Request, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except TimeoutError as error:
        raise SilentError(f"cannot {request.doing}: nothing came for {request.silence_s or 0:g} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise UnavailableError(f"cannot {request.doing}: {str(error) or type(error).__name__}") from error


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[list[bytes]]:
    begun: list[bytes] = []
    async for chunk in chunks:
        first, *others = chunk.split(b"\n")
        begun.append(first)
        if others:
            lines = [b"".join(begun), *others[:-1]]
            begun = [others[-1]]
            yield lines
