"""The API server: the route table behind a Unix socket, for whom the kernel vouches."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from http import HTTPStatus
from pathlib import Path

import anyio
import msgspec
import structlog
from aiohttp import web
from anyio.abc import TaskStatus

from fusemld.api import access, errors, openapi
from fusemld.api.calls import Call, refuse_unknown
from fusemld.api.operations import Operations
from fusemld.api.routes import OBSOLETE, OPENAPI_PATH, ROUTES, Route
from fusemld.api.sockets import listening_socket
from fusemld.api.views import Ping, RunChanged, RunView, moment
from fusemld.model.errors import FusemldError, InvalidInputError, may_pass

BODY_LIMIT_BYTES = 1024 * 1024
PING_S = 15.0
SHUTDOWN_S = 2.0
BACKLOG = 128
"""Clients that may wait to be accepted; others are refused by the kernel."""
ACCEPT_AGAIN_S = 0.5

Answerer = Callable[[web.Request], Awaitable[web.StreamResponse]]

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


async def serve(
    operations: Operations,
    path: Path,
    group: str = "",
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Answer on the socket `path` until cancelled; ready once connections are accepted.

    The daemon's own user and root administer, members of `group` operate, others are refused. Raises
    `StartError` where the socket cannot be had: see `listening_socket`. When it is cancelled, open
    streams are broken off (their readers can tell that from an end) and requests get a moment to finish.
    """
    rules = access.Rules(uid=os.geteuid(), group=access.group_id(group))
    with listening_socket(path, rules.group) as bound:
        api = _Api(operations, rules)
        runner = web.AppRunner(api.application(), access_log=None, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        try:
            assert runner.server is not None
            bound.listen(BACKLOG)
            bound.setblocking(False)
            log.info("api.listening", socket=str(path))
            task_status.started()
            await _accept(bound, runner.server)
        finally:
            bound.close()
            with anyio.move_on_after(SHUTDOWN_S * 2, shield=True):
                await runner.cleanup()


async def _accept(listening: socket.socket, server: web.Server) -> None:
    """Where something is lacking for a connection, its client waits until it is there again. (An event loop that
    accepts by itself may break it off then, or try again without a pause, as uvloop's.)"""
    loop = asyncio.get_running_loop()
    is_told = False
    while True:
        try:
            connection, _ = await loop.sock_accept(listening)
        except OSError as error:
            if not may_pass(error):
                raise
            if not is_told:
                log.warning("api.cannot_accept", error=str(error))
            is_told = True
            await anyio.sleep(ACCEPT_AGAIN_S)
            continue
        is_told = False
        with contextlib.suppress(OSError):  # the client is gone already
            await loop.connect_accepted_socket(server, connection)


class _Api:
    def __init__(self, operations: Operations, rules: access.Rules) -> None:
        self._operations = operations
        self._rules = rules
        self._closing = anyio.Event()

    def application(self) -> web.Application:
        app = web.Application(client_max_size=BODY_LIMIT_BYTES, middlewares=[self._guard])
        for route in ROUTES:
            for path in (route.path, f"{route.path}/"):
                app.router.add_route(route.method, path, self._answerer(route))
        for path in OBSOLETE:
            for variant in (path, f"{path}/"):
                app.router.add_route("*", variant, _gone)
        app.router.add_get(OPENAPI_PATH, _openapi)
        app.on_shutdown.append(self._close_streams)
        return app

    async def _close_streams(self, _: web.Application) -> None:
        self._closing.set()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Answerer) -> web.StreamResponse:
        """Nobody gets past without a right to operate, and no error gets out but through the table."""
        try:
            self._require(request, access.Access.OPERATE)
            return await handler(request)
        except web.HTTPException as error:
            status = HTTPStatus(error.status)
            message = f"cannot answer {request.method} {request.path}: {status.phrase}"
            if status is HTTPStatus.NOT_FOUND and "//" in request.path:
                return _error(*errors.answer(InvalidInputError(f"{message}: a part of the path is empty")))
            response = _error(*errors.refusal(status, status.name.lower(), message))
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
            return response
        except Exception as error:  # noqa: BLE001  # the boundary: every error becomes an answer
            return _error(*errors.answer(error))

    def _require(self, request: web.Request, needed: access.Access) -> str:
        """The name of the user at the other end."""
        connection = request.get_extra_info("socket")
        if connection is None:
            raise ConnectionResetError("the client is gone")
        peer = access.peer_of(connection, self._rules)
        access.require(peer, self._rules, needed)
        return access.user_name(peer.uid)

    def _answerer(self, route: Route) -> Answerer:
        async def answer(request: web.Request) -> web.StreamResponse:
            user = self._require(request, route.access)
            refuse_unknown(request.query, route.query)
            call = Call(
                operations=self._operations,
                user=user,
                path=request.match_info,
                query=request.query,
                body=await request.read() if route.body else b"",
            )
            if route.text:
                media = "text/plain; charset=utf-8" if route.media == "text/plain" else route.media
                return await self._stream(request, await route.text(call), media)
            if route.changes:
                return await self._stream(
                    request, _lines(await route.changes(call)), "application/x-ndjson", _ping
                )
            assert route.handler is not None
            found = await route.handler(call)
            if route.answer is None:
                return web.Response(status=route.status)
            return _json(found, status=route.status)

        return answer

    async def _stream(
        self,
        request: web.Request,
        chunks: AsyncGenerator[bytes],
        media_type: str,
        ping: Callable[[], bytes] | None = None,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": media_type, "Cache-Control": "no-store"})
        ended = False
        try:
            async with aclosing(chunks), anyio.create_task_group() as tasks:
                await response.prepare(request)
                tasks.start_soon(self._watch, request, tasks.cancel_scope, name="api.stream.watch")
                if ping:
                    tasks.start_soon(_keep_alive, response, ping, name="api.stream.ping")
                async for chunk in chunks:
                    await response.write(chunk)
                ended = True
                tasks.cancel_scope.cancel()
        except* ConnectionResetError:
            pass
        except* FusemldError as group:
            why = "; ".join(str(error) for error in group.exceptions)
            log.warning("api.stream.broken_off", path=request.path, error=why)
        except* Exception as group:
            log.error("api.stream.failed", path=request.path, exc_info=group)
        if ended:
            await response.write_eof()
        elif request.transport is not None:
            # Without the closing chunk the reader can tell a broken stream from one that ended.
            request.transport.abort()
        return response

    async def _watch(self, request: web.Request, scope: anyio.CancelScope) -> None:
        """A reader that is gone is noticed although there is nothing to write; so is the end of the daemon."""
        while not self._closing.is_set() and request.transport is not None:
            with anyio.move_on_after(1.0):
                await self._closing.wait()
        scope.cancel()


async def _keep_alive(response: web.StreamResponse, ping: Callable[[], bytes]) -> None:
    while True:
        await anyio.sleep(PING_S)
        await response.write(ping())


async def _lines(changes: AsyncGenerator[RunView]) -> AsyncGenerator[bytes]:
    async with aclosing(changes):
        async for run in changes:
            yield msgspec.json.encode(RunChanged(run=run)) + b"\n"


def _ping() -> bytes:
    return msgspec.json.encode(Ping(at=moment(time.time()))) + b"\n"


def _json(body: object, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def _error(status: HTTPStatus, body: errors.ErrorBody) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type=errors.MEDIA_TYPE)


async def _gone(_: web.Request) -> web.StreamResponse:
    message = "cannot use runnables: they are obsolete; a step names its container image instead"
    return _error(*errors.refusal(HTTPStatus.GONE, "gone", message))


async def _openapi(request: web.Request) -> web.StreamResponse:
    refuse_unknown(request.query, ())
    return web.Response(body=openapi.document(), content_type="application/json")
