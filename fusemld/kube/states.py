"""One object followed through its states."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from fusemld.hooks.clusters import Json
from fusemld.kube.client import KubeCluster
from fusemld.kube.reflector import Reflector


@asynccontextmanager
async def states(cluster: KubeCluster, path: str, name: str) -> AsyncGenerator[AsyncGenerator[Json | None]]:
    """As `Cluster.states` promises. Errors of the first look that will not pass by themselves are raised."""
    send, receive = anyio.create_memory_object_stream[Json | None](math.inf)
    reflector = Reflector(
        cluster, path, {"fieldSelector": f"metadata.name={name}"}, lambda _, new: send.send_nowait(new)
    )
    problem: Exception | None = None
    with send, receive:
        async with anyio.create_task_group() as tasks:
            try:
                await tasks.start(reflector.run, name=f"follow {path}/{name}")
                if not reflector.objects:
                    send.send_nowait(None)
                async with aclosing(_received(receive)) as received:
                    yield received
            except Exception as error:  # noqa: BLE001 - raised below, as it is and not in a group
                problem = error
            tasks.cancel_scope.cancel()
    if problem is not None:
        raise problem


async def _received(receive: MemoryObjectReceiveStream[Json | None]) -> AsyncGenerator[Json | None]:
    async for state in receive:
        yield state
