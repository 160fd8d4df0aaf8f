"""API servers that go wrong in ways that a real one cannot be brought to at will."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from fusemld.kube.client import KubeCluster
from fusemld.kube.connecting import Connection, connect_to
from fusemld.kube.records import given

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FaultyServer:
    """Answers each request by the next entry of `script`, from its end on always by the last one."""

    def __init__(self, script: Sequence[Answer]) -> None:
        self.script = script
        self.seen: list[str] = []
        """`METHOD path?query` of every request, in order."""
        self.tokens: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        index = min(len(self.seen), len(self.script) - 1)
        self.seen.append(f"{request.method} {request.path_qs}")
        self.tokens.append(request.headers.get("Authorization", ""))
        return await self.script[index](request)

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[str]:
        """Gives the URL."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


@asynccontextmanager
async def connected(
    server: FaultyServer, *, timeout_s: float = 5.0, at_once: int = 8
) -> AsyncGenerator[KubeCluster]:
    bounds = Connection(request_timeout_s=timeout_s, requests_at_once=at_once)
    async with (
        server.serving() as url,
        connect_to(given(url, {}, "the test"), bounds, instance="test") as cluster,
    ):
        yield cluster


def says(body: Any, status: int = 200, **headers: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(text=text, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return answer


def refuses(status: int, message: str, **headers: str) -> Answer:
    return says({"kind": "Status", "code": status, "message": message}, status, **headers)


def breaks_off() -> Answer:
    """The connection is closed without an answer."""

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return answer


def listing(version: int, *names_and_versions: tuple[str, int], **metadata: str) -> Answer:
    items = [item(name, number) for name, number in names_and_versions]
    return says({"metadata": {"resourceVersion": str(version), **metadata}, "items": items})


def item(name: str, version: int, uid: str = "") -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": uid or name, "resourceVersion": str(version)}}


def event(kind: str, body: dict[str, Any]) -> str:
    return json.dumps({"type": kind, "object": body}) + "\n"


def streams(*pieces: str, then: Callable[[], Awaitable[object]] | None = None, is_cut: bool = False) -> Answer:
    """The pieces, then whatever `then` waits for, then the end; `is_cut`: without a proper one."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece.encode())
        if then is not None:
            await then()
        if is_cut:
            assert request.transport is not None
            request.transport.abort()
        return response

    return answer
