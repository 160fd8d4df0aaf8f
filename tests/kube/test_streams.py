from __future__ import annotations

import anyio
import pytest

from fusemld.kube.answers import ExpiredError
from fusemld.kube.streams import SilentError
from fusemld.model.errors import (
    UnavailableError,
)
from tests.kube.faults import (
    FaultyServer,
    connected,
    event,
    item,
    refuses,
    streams,
)

PODS = "/api/v1/namespaces/x/pods"


async def test_a_log_that_breaks_off_is_unavailable_after_what_came() -> None:
    cut = anyio.Event()
    server = FaultyServer([streams("one\n", then=cut.wait, is_cut=True)])
    async with connected(server) as cluster, cluster.logs(f"{PODS}/y/log", params={"follow": "true"}) as chunks:
        assert await anext(chunks) == b"one\n"
        cut.set()
        with pytest.raises(UnavailableError, match=f"cannot get {PODS}/y/log"):
            await anext(chunks)

    assert server.seen == [f"GET {PODS}/y/log?follow=true"]


async def test_a_log_ends_where_the_server_ends_it() -> None:
    async with (
        connected(FaultyServer([streams("one\n", "two\n")])) as cluster,
        cluster.logs(f"{PODS}/y/log") as chunks,
    ):
        assert b"".join([chunk async for chunk in chunks]) == b"one\ntwo\n"


async def test_lines_of_a_watch_are_put_together_from_pieces_and_a_cut_one_is_dropped() -> None:
    line = event("ADDED", item("a" * 70_000, 1))
    server = FaultyServer([streams(line[:10], line[10:50_000], line[50_000:] + line + "{cut")])
    async with connected(server) as cluster, cluster.watch(PODS, params={}, silence_s=5) as batches:
        lines = [line async for batch in batches for line in batch]

    assert lines == [line.strip().encode()] * 2


async def test_a_silent_watch_is_told() -> None:
    server = FaultyServer([streams(event("ADDED", item("a", 1)), then=anyio.Event().wait)])
    async with connected(server) as cluster, cluster.watch(PODS, params={}, silence_s=0.2) as batches:
        assert len(await anext(batches)) == 1
        with anyio.fail_after(2), pytest.raises(SilentError, match="nothing came for too long"):
            await anext(batches)


async def test_a_watch_of_a_forgotten_version_is_expired() -> None:
    async with connected(FaultyServer([refuses(410, "too old resource version")])) as cluster:
        with pytest.raises(ExpiredError, match="too old resource version"):
            async with cluster.watch(PODS, params={"resourceVersion": "1"}, silence_s=5):
                raise AssertionError("opened")
