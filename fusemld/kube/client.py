"""One API server, spoken to in raw JSON."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Final

import msgspec

from fusemld.hooks.clusters import MANAGER, Json
from fusemld.kube import paths, streams
from fusemld.kube.pace import Pace
from fusemld.kube.sending import JSON, Request, Sender
from fusemld.model.errors import ConflictError, NotFoundError, UnavailableError

_MERGE_PATCH: Final = "application/merge-patch+json"
_APPLY_PATCH: Final = "application/apply-patch+yaml"
# The words of k8s.io/apiserver/pkg/registry/rest/delete.go and of .../pkg/storage/interfaces.go; there is no code.
_IS_ANOTHER: Final = re.compile(r"UID in (the )?precondition")


class KubeCluster:
    """Implements `fusemld.hooks.clusters.Cluster`, and what our own parts need beyond it.

    Made by `fusemld.kube.connecting.connect`.
    """

    def __init__(self, sender: Sender, *, name: str, namespace: str, instance: str) -> None:
        self.name = name
        self.namespace = namespace
        self.instance = instance
        self._sender = sender

    @property
    def requests(self) -> Counter[str]:
        """Requests sent so far by verb and resource: `create pods`, `watch pods`, `get pods/log`."""
        return self._sender.sent

    def now(self) -> float:
        """What time it is for the API server (seconds since the epoch), to about a second."""
        return self._sender.clock.now()

    @property
    def pace(self) -> Pace:
        """How many requests may be under way now, and until when none may start."""
        return self._sender.gate.pace

    def __repr__(self) -> str:
        return f"KubeCluster({self.name!r})"

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Json:
        return _decoded(path, await self.read(path, params))

    async def read(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        """The body of a GET as it is."""
        verb = "get" if paths.resource(path)[1] else "list"
        _, body = await self._sender.send(Request(verb=verb, method="GET", path=path, params=params or {}))
        return body

    async def create(self, path: str, body: Json, params: Mapping[str, str] | None = None) -> Json:
        return _decoded(path, await self._write("create", "POST", path, body, params))

    async def apply(self, path: str, body: Json, *, force: bool = True) -> Json:
        params = {"fieldManager": MANAGER, "force": "true" if force else "false"}
        return _decoded(path, await self._write("patch", "PATCH", path, body, params, _APPLY_PATCH))

    async def patch(self, path: str, body: Json, *, subresource: str = "") -> Json:
        path = f"{path}/{subresource}" if subresource else path
        params = {"fieldManager": MANAGER}
        return _decoded(path, await self._write("patch", "PATCH", path, body, params, _MERGE_PATCH))

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
        return len(_decoded(path, answer).get("items") or ())

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
        request = Request(
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
        request = Request(verb="watch", method="GET", path=path, params=params, streams=True, silence_s=silence_s)
        async with self._stream(request) as chunks, aclosing(streams.lines(chunks)) as lines:
            yield lines

    @asynccontextmanager
    async def _stream(self, request: Request) -> AsyncGenerator[AsyncIterator[bytes]]:
        response, _ = await self._sender.send(request)
        try:
            async with aclosing(streams.chunks(response, request.doing)) as chunks:
                yield chunks
        finally:
            streams.leave(response)

    async def _write(
        self,
        verb: str,
        method: str,
        path: str,
        body: Json,
        params: Mapping[str, str] | None = None,
        content_type: str = JSON,
    ) -> bytes:
        encoded = msgspec.json.encode(body)
        _, answer = await self._sender.send(
            Request(
                verb=verb, method=method, path=path, params=params or {}, body=encoded, content_type=content_type
            )
        )
        return answer


def _decoded(path: str, body: bytes) -> Json:
    try:
        return msgspec.json.decode(body, type=dict)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnavailableError(f"cannot understand the answer for {path}: {error}") from error
