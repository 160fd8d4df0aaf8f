"""Against the real API server where it can do what is asked, against servers that go wrong where it cannot."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from fusemld.hooks.clusters import Json
from fusemld.kube.access import Access
from fusemld.kube.answers import ExpiredError
from fusemld.kube.client import KubeCluster
from fusemld.kube.connecting import Connection, connect, connect_to
from fusemld.kube.streams import SilentError
from fusemld.model.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    StartError,
    UnavailableError,
)
from tests.kube.faults import (
    Answer,
    FaultyServer,
    breaks_off,
    connected,
    event,
    item,
    refuses,
    says,
    streams,
)

PODS = "/api/v1/namespaces/x/pods"


def config_map(name: str, **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


@pytest.mark.cluster
async def test_objects_are_created_read_changed_and_deleted(kubeconfig: Path, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    async with connect(Connection(kubeconfig=kubeconfig), instance="test") as cluster:
        made = await cluster.create(path, config_map("one", a="1"))
        applied = await cluster.apply(f"{path}/one", config_map("one", b="2"))
        patched = await cluster.patch(f"{path}/one", {"data": {"a": None}})
        found = await cluster.get(path, {"fieldSelector": "metadata.name=one"})
        is_deleted = await cluster.delete(f"{path}/one", uid=made["metadata"]["uid"])
        is_deleted_again = await cluster.delete(f"{path}/one")

    assert applied["data"] == {"a": "1", "b": "2"}
    assert patched["data"] == {"b": "2"}
    assert [entry["metadata"]["name"] for entry in found["items"]] == ["one"]
    assert (is_deleted, is_deleted_again) == (True, False)
    assert cluster.requests == {
        "create configmaps": 1,
        "patch configmaps": 2,
        "list configmaps": 1,
        "delete configmaps": 2,
    }


@pytest.mark.cluster
async def test_another_object_of_the_name_is_not_deleted(kubeconfig: Path, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    async with connect(Connection(kubeconfig=kubeconfig), instance="test") as cluster:
        await cluster.create(path, config_map("one"))

        is_deleted = await cluster.delete(f"{path}/one", uid="of-another-one")

        assert not is_deleted
        assert (await cluster.get(f"{path}/one"))["metadata"]["name"] == "one"


@pytest.mark.cluster
async def test_what_a_label_chooses_is_deleted_or_only_counted(kubeconfig: Path, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    async with connect(Connection(kubeconfig=kubeconfig), instance="test") as cluster:
        for name, label in (("a", "yes"), ("b", "yes"), ("c", "no")):
            await cluster.create(path, {"metadata": {"name": name, "labels": {"mine": label}}})

        counted = await cluster.delete_collection(path, "mine=yes", dry_run=True)
        deleted = await cluster.delete_collection(path, "mine=yes")
        left = await cluster.delete_collection(path, "mine", dry_run=True)

    assert (counted, deleted, left) == (2, 2, 1)


@pytest.mark.cluster
async def test_refusals_of_the_real_server_are_quoted(kubeconfig: Path, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    async with connect(Connection(kubeconfig=kubeconfig), instance="test") as cluster:
        with pytest.raises(NotFoundError, match=r'cannot get .*/absent: configmaps "absent" not found'):
            await cluster.get(f"{path}/absent")
        await cluster.create(path, config_map("one"))
        with pytest.raises(ConflictError, match='configmaps "one" already exists'):
            await cluster.create(path, config_map("one"))
        with pytest.raises(InvalidInputError, match=r"metadata\.name: Invalid value"):
            await cluster.create(path, config_map("Not A Name"))
        with pytest.raises(NotFoundError, match="404 page not found"):
            await cluster.get("/apis/absent.example/v1/things")


@pytest.mark.cluster
async def test_wrong_credentials_are_forbidden(kubeconfig: Path, tmp_path: Path) -> None:
    text = kubeconfig.read_text()
    start = text.index("users:")
    wrong = text[:start] + 'users: [{name: admin, user: {token: "wr0ng"}}]\n' + text[text.index("contexts:") :]
    (tmp_path / "config").write_text(wrong)
    async with connect(Connection(kubeconfig=tmp_path / "config"), instance="test") as cluster:
        with pytest.raises(ForbiddenError, match="Unauthorized") as raised:
            await cluster.get("/api/v1/namespaces/default/pods")

    assert "wr0ng" not in str(raised.value)


@pytest.mark.parametrize(
    "refusal", [refuses(429, "slow down", Retry_After="0"), refuses(503, "wait", Retry_After="0")]
)
async def test_what_the_server_did_not_begin_is_repeated_also_a_create(refusal: Answer) -> None:
    server = FaultyServer([refusal, refusal, says({"metadata": {"name": "y"}}, 201)])
    async with connected(server) as cluster:
        made = await cluster.create(PODS, {})

    assert made == {"metadata": {"name": "y"}}
    assert server.seen == [f"POST {PODS}"] * 3
    assert cluster.requests["create pods"] == 3


async def test_retry_after_holds_back_every_caller() -> None:
    server = FaultyServer([refuses(429, "slow down", Retry_After="0.3"), says({})])
    async with connected(server) as cluster, anyio.create_task_group() as tasks:
        tasks.start_soon(cluster.create, PODS, {})
        while not cluster.pace.resumes_at:
            await anyio.lowlevel.checkpoint()
        before = anyio.current_time()
        await cluster.get(f"{PODS}/y")

        assert anyio.current_time() - before >= 0.2


async def test_a_storm_of_refusals_ends_within_the_requests_time_with_the_servers_words() -> None:
    server = FaultyServer([refuses(429, "too many requests, please try again later", Retry_After="0.02")])
    async with connected(server, timeout_s=0.3) as cluster:
        with pytest.raises(
            UnavailableError, match=f"cannot create {PODS} within .* too many requests, please try again later"
        ):
            await cluster.create(PODS, {})

        assert cluster.pace.limit < 2


async def test_a_read_survives_a_server_that_is_briefly_in_trouble() -> None:
    server = FaultyServer([refuses(500, "etcd leader changed"), breaks_off(), says({"metadata": {}})])
    async with connected(server) as cluster:
        assert await cluster.get(f"{PODS}/y") == {"metadata": {}}


@pytest.mark.parametrize(
    "fault",
    [refuses(500, "etcd timed out"), refuses(503, "no endpoints"), refuses(504, "timed out"), breaks_off()],
)
async def test_a_write_of_unknown_outcome_is_not_repeated(fault: Answer) -> None:
    server = FaultyServer([fault, says({})])
    async with connected(server) as cluster:
        with pytest.raises(UnavailableError, match=f"cannot create {PODS}: "):
            await cluster.create(PODS, {})

    assert len(server.seen) == 1


async def test_a_read_that_stays_in_trouble_is_unavailable() -> None:
    async with connected(FaultyServer([refuses(500, "etcd timed out")])) as cluster:
        with pytest.raises(UnavailableError, match=f"cannot get {PODS}/y: etcd timed out"):
            await cluster.get(f"{PODS}/y")


async def test_a_server_that_never_answers_is_unavailable_within_the_requests_time() -> None:
    server = FaultyServer([streams_nothing()])
    async with connected(server, timeout_s=0.2) as cluster:
        with anyio.fail_after(2), pytest.raises(UnavailableError, match=r"within 0\.2 s: no answer"):
            await cluster.create(PODS, {})

        assert cluster.pace.under_way == 0


async def test_an_address_where_nobody_listens_is_unavailable() -> None:
    async with FaultyServer([says({})]).serving() as url:
        pass
    async with connect_to(Tokens(url, "a"), Connection(request_timeout_s=3), instance="test") as cluster:
        with pytest.raises(UnavailableError, match=f"cannot create {PODS}: .*onnect"):
            await cluster.create(PODS, {})


async def test_an_answer_that_is_no_json_is_unavailable() -> None:
    async with connected(FaultyServer([says("<html>welcome</html>")])) as cluster:
        with pytest.raises(UnavailableError, match=f"cannot understand the answer for {PODS}"):
            await cluster.get(PODS)


async def test_a_redirect_is_not_followed_with_our_credentials() -> None:
    server = FaultyServer([refuses(302, "log in", Location="http://evil.example/")])
    async with connected(server) as cluster:
        with pytest.raises(InvalidInputError, match="log in"):
            await cluster.get(PODS)

    assert len(server.seen) == 1


async def test_a_refused_token_is_loaded_anew_once_and_the_request_repeated() -> None:
    server = FaultyServer([refuses(401, "Unauthorized"), says({})])
    async with tokens_at(server, "old", "new") as cluster:
        await cluster.create(PODS, {})

    assert server.tokens == ["Bearer old", "Bearer new"]


async def test_credentials_that_stay_refused_are_forbidden_and_not_asked_for_again_and_again() -> None:
    server = FaultyServer([refuses(401, "Unauthorized")])
    source = Tokens("", "old", "new", "newer", "newest")
    async with tokens_at(server, source=source) as cluster:
        for _ in range(3):
            with pytest.raises(ForbiddenError, match="Unauthorized"):
                await cluster.get(PODS)

    assert source.loads == 2


async def test_credentials_that_expire_are_loaded_before_they_are_refused() -> None:
    server = FaultyServer([says({})])
    source = Tokens("", "old", "new", renew_at=1.0)
    async with tokens_at(server, source=source) as cluster:
        await cluster.get(PODS)

    assert server.tokens == ["Bearer new"]


async def test_many_requests_at_once_load_new_credentials_once() -> None:
    server = FaultyServer([refuses(401, "Unauthorized")] * 5 + [says({})])
    source = Tokens("", "old", "new", "newer")
    async with tokens_at(server, source=source) as cluster, anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(cluster.get, PODS)

    assert source.loads == 2


async def test_credentials_that_cannot_be_loaded_any_more_are_unavailable() -> None:
    server = FaultyServer([refuses(401, "Unauthorized")])
    async with tokens_at(server, "old") as cluster:
        with pytest.raises(UnavailableError, match=f"cannot get {PODS}.*: there is no further token"):
            await cluster.get(PODS + "/y")


async def test_no_more_requests_are_under_way_than_allowed() -> None:
    most = now = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await anyio.sleep(0.005)
        now -= 1
        return web.json_response({})

    async with connected(FaultyServer([answer]), at_once=3) as cluster, anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(cluster.get, PODS)

    assert most == 3


async def test_streams_hold_no_place_of_the_requests() -> None:
    server = FaultyServer([streams("begin", then=anyio.Event().wait), says({})])
    async with connected(server, at_once=1) as cluster, cluster.logs(f"{PODS}/y/log") as chunks:
        assert await anext(chunks) == b"begin"

        assert await cluster.get(f"{PODS}/y") == {}


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


class Tokens:
    """A source of credentials whose token is another one each time, until there is none left."""

    def __init__(self, server: str, *tokens: str, renew_at: float | None = None) -> None:
        self.server = server
        self.loads = 0
        self._tokens = tokens
        self._renew_at = renew_at

    async def load(self) -> Access:
        self.loads += 1
        if self.loads > len(self._tokens):
            raise StartError("there is no further token")
        renew_at = self._renew_at if self.loads == 1 else None
        token = self._tokens[self.loads - 1]
        return Access(server=self.server, authorization=f"Bearer {token}", renew_at=renew_at)


@asynccontextmanager
async def tokens_at(
    server: FaultyServer, *tokens: str, source: Tokens | None = None
) -> AsyncGenerator[KubeCluster]:
    async with server.serving() as url:
        used = source or Tokens(url, *tokens)
        used.server = url
        async with connect_to(used, Connection(request_timeout_s=3), instance="test") as cluster:
            yield cluster


def streams_nothing() -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        await anyio.Event().wait()
        raise AssertionError("woken")

    return answer
