"""Requests to one API server: let in, paced, bounded in time, repeated where that is safe."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

import aiohttp
import anyio
import msgspec

from fusemld.kube import answers, paths
from fusemld.kube.access import Access, AccessSource
from fusemld.kube.gate import Gate
from fusemld.kube.server_clock import ServerClock
from fusemld.model.backoff import backoff_s
from fusemld.model.errors import FusemldError, StartError, UnavailableError

JSON: Final = "application/json"
_TRIES: Final = 4
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0
_RENEWALS_APART_S: Final = 5.0
_UNBOUNDED: Final = aiohttp.ClientTimeout(total=None)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """`verb` is as in the rules of a Role. The body of an answer that `streams` is left to the caller; it may be
    silent for `silence_s`."""

    verb: str
    method: str
    path: str
    params: Mapping[str, str] = {}
    body: bytes | None = None
    content_type: str = JSON
    streams: bool = False
    silence_s: float | None = None

    @property
    def doing(self) -> str:
        return f"{self.verb} {self.path}"


class _Renewal:
    """Credentials that are asked for now. `problem` says at the end why there are none; where there is neither,
    who asked was cancelled."""

    __slots__ = ("ended", "problem")

    def __init__(self) -> None:
        self.ended = anyio.Event()
        self.problem: FusemldError | None = None


class Sender:
    """`sent` counts by verb and resource."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        source: AccessSource,
        access: Access,
        gate: Gate,
        timeout_s: float,
    ) -> None:
        self.sent: Counter[str] = Counter()
        self.gate = gate
        self._session = session
        self._source = source
        self._access = access
        self._timeout_s = timeout_s
        self.clock = ServerClock()
        self._renewal: _Renewal | None = None
        self._renewed_at = float("-inf")

    async def send(self, request: Request) -> tuple[aiohttp.ClientResponse, bytes]:
        """What the server answers, if that is no refusal; errors are those of `fusemld.hooks.clusters.Cluster`.

        Repeated are reads in passing trouble, what never reached the server, what it did not begin (429, 503 with
        `Retry-After`), and once what it did not let in, if there are other credentials now. The time that
        credentials take is not the request's.
        """
        words = "no answer"
        failures = 0
        was_renewed = False
        with anyio.move_on_after(self._timeout_s) as limit:
            while True:
                access = await self._admission(request, limit)
                try:
                    started_at, response, body = await self._in_turn(request, access)
                except (aiohttp.ClientError, OSError) as error:
                    words = str(error) or type(error).__name__
                    problem: FusemldError = UnavailableError(f"cannot {request.doing}: {words}")
                    problem.__cause__ = error
                    is_passing = request.method == "GET" or isinstance(error, aiohttp.ClientConnectorError)
                else:
                    status, retry_after = response.status, response.headers.get("Retry-After")
                    if status < HTTPStatus.MULTIPLE_CHOICES:
                        self.gate.served()
                        return response, body
                    words = answers.words(body, f"HTTP status {status}")
                    if answers.is_refusal(status, retry_after):
                        self.gate.refused(started_at, answers.retry_after_s(retry_after))
                        continue
                    if status == HTTPStatus.UNAUTHORIZED and not was_renewed:
                        was_renewed = True
                        if await self._renew(request, limit, access, is_refused=True):
                            continue
                    problem = answers.error(request.doing, status, words)
                    is_passing = request.method == "GET" and status >= HTTPStatus.INTERNAL_SERVER_ERROR
                failures += 1
                if not is_passing or failures == _TRIES:
                    raise problem
                await anyio.sleep(backoff_s(failures, _FIRST_PAUSE_S, _LONGEST_PAUSE_S))
        raise UnavailableError(f"cannot {request.doing} within {self._timeout_s:g} s: {words}")

    async def _in_turn(self, request: Request, access: Access) -> tuple[float, aiohttp.ClientResponse, bytes]:
        """When it was sent, and the answer."""
        started_at = await self.gate.enter()
        try:
            return started_at, *await self._exchange(request, access)
        finally:
            self.gate.leave()

    async def _exchange(self, request: Request, access: Access) -> tuple[aiohttp.ClientResponse, bytes]:
        self.sent[f"{request.verb} {paths.resource(request.path)[0]}"] += 1
        headers = [("Accept", JSON), *access.impersonation]
        if access.authorization:
            headers.append(("Authorization", access.authorization))
        if request.body is not None:
            headers.append(("Content-Type", request.content_type))
        response = await self._session.request(
            request.method,
            access.server + request.path,
            params=request.params or None,
            data=request.body,
            headers=headers,
            ssl=True if access.tls is None else access.tls,
            server_hostname=access.server_name,
            proxy=access.proxy,
            allow_redirects=False,
            timeout=_UNBOUNDED
            if request.silence_s is None
            else aiohttp.ClientTimeout(total=None, sock_read=request.silence_s),
        )
        self.clock.hear(response.headers.get("Date"))
        if request.streams and response.status < HTTPStatus.MULTIPLE_CHOICES:
            return response, b""
        async with response:
            return response, await response.read()

    async def _admission(self, request: Request, limit: anyio.CancelScope) -> Access:
        renew_at = self._access.renew_at
        if renew_at is not None and time.time() >= renew_at:
            await self._renew(request, limit, self._access, is_refused=False)
        return self._access

    async def _renew(self, request: Request, limit: anyio.CancelScope, used: Access, *, is_refused: bool) -> bool:
        """Whether other credentials than those `used` were read since, by us or somebody else. One request asks
        for them, and all that wait meanwhile share what comes of it."""
        with _suspended(limit):
            while self._access is used:
                if (renewal := self._renewal) is not None:
                    await renewal.ended.wait()
                elif is_refused and anyio.current_time() < self._renewed_at + _RENEWALS_APART_S:
                    return False
                else:
                    renewal = await self._load()
                if renewal.problem is not None:
                    raise UnavailableError(f"cannot {request.doing}: {renewal.problem}") from renewal.problem
        return True

    async def _load(self) -> _Renewal:
        renewal = self._renewal = _Renewal()
        try:
            self._access = await self._source.load()
        except (StartError, UnavailableError) as error:
            renewal.problem = error
        finally:
            self._renewal = None
            renewal.ended.set()
        self._renewed_at = anyio.current_time()
        return renewal


@contextmanager
def _suspended(limit: anyio.CancelScope) -> Iterator[None]:
    """Time does not count against the limit."""
    left_s = limit.deadline - anyio.current_time()
    limit.deadline = math.inf
    try:
        yield
    finally:
        limit.deadline = anyio.current_time() + left_s
