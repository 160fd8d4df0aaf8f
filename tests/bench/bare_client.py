"""The floor: a client that does nothing but create, watch and delete the pods of chains."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import aiohttp

LINE_LIMIT = 2**22


class BareClient:
    """Use as a context manager: it watches meanwhile. `at_once` bounds the requests under way."""

    def __init__(
        self,
        url: str,
        tls: ssl.SSLContext,
        namespace: str,
        *,
        at_once: int,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._pods = f"{url}/api/v1/namespaces/{namespace}/pods"
        self._secrets = f"{url}/api/v1/namespaces/{namespace}/secrets"
        self._tls = tls
        self._headers = headers
        self._at_once = at_once
        self._ended: dict[str, asyncio.Future[str]] = {}

    async def __aenter__(self) -> BareClient:
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=self._at_once + 1),
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=LINE_LIMIT,
        )
        self._tasks = await asyncio.TaskGroup().__aenter__()
        self._watching = self._tasks.create_task(self._watch(), name="bare watch")
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._watching.cancel()
        try:
            await self._tasks.__aexit__(*error)
        finally:
            await self._session.close()

    async def run_chains(
        self, name: str, chains: int, length: int, pod: dict[str, Any], secret: dict[str, Any] | None = None
    ) -> None:
        """Each pod is created as soon as the container of the one before has terminated, with its termination
        message in the variable INPUT, and deleted as soon as its own has, and with it its Secret if there is to be
        one. Chain `c` has the pods `NAME-c-0`..."""
        async with asyncio.TaskGroup() as tasks:
            for chain in range(chains):
                tasks.create_task(self._chain(f"{name}-{chain}", length, pod, secret, tasks))

    async def _chain(
        self,
        name: str,
        length: int,
        pod: dict[str, Any],
        secret: dict[str, Any] | None,
        tasks: asyncio.TaskGroup,
    ) -> None:
        message = ""
        for link in range(length):
            own = f"{name}-{link}"
            ended = self._ended[own] = asyncio.get_running_loop().create_future()
            (container,) = pod["spec"]["containers"]
            given = container | {"env": [*container.get("env", ()), {"name": "INPUT", "value": message}]}
            body = pod | {
                "metadata": pod["metadata"] | {"name": own},
                "spec": pod["spec"] | {"containers": [given]},
            }
            if secret is not None:
                named = secret | {"metadata": secret["metadata"] | {"name": own}}
                await self._ask("POST", self._secrets, named)
            await self._ask("POST", self._pods, body)
            message = await ended
            if secret is not None:
                tasks.create_task(self._ask("DELETE", f"{self._secrets}/{own}", {}))
            tasks.create_task(self._ask("DELETE", f"{self._pods}/{own}", {"gracePeriodSeconds": 0}))

    async def _watch(self) -> None:
        """The server ends watches now and then."""
        while True:
            async with self._session.get(self._pods) as answer:
                listed = await answer.json()
            for pod in listed["items"]:
                self._see(pod)
            query = {"watch": "1", "resourceVersion": listed["metadata"]["resourceVersion"]}
            async with self._session.get(self._pods, params=query) as answer:
                async for line in answer.content:
                    self._see(json.loads(line)["object"])

    def _see(self, pod: dict[str, Any]) -> None:
        ended = self._ended.get(pod["metadata"]["name"])
        for container in pod.get("status", {}).get("containerStatuses", ()):
            terminated = container["state"].get("terminated")
            if terminated is not None and ended is not None and not ended.done():
                assert terminated["exitCode"] == 0, terminated
                ended.set_result(terminated.get("message", ""))

    async def _ask(self, method: str, url: str, body: dict[str, Any]) -> None:
        async with self._session.request(method, url, json=body) as answer:
            text = await answer.text()
            assert answer.ok, f"{method} {url}: {answer.status} {text}"
