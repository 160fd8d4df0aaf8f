from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
from aiohttp import web

from fusemld.kube.access import Access
from fusemld.kube.client import KubeCluster
from fusemld.kube.connecting import Connection, connect_to
from fusemld.kube.pace import SHORTEST_S
from fusemld.model.errors import (
    ForbiddenError,
    InvalidInputError,
    StartError,
    UnavailableError,
)
from tests.kube.faults import (
    Answer,
    FaultyServer,
    breaks_off,
    connected,
    refuses,
    says,
    streams,
)

PODS = "/api/v1/namespaces/x/pods"


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
    server = FaultyServer([refuses(429, "too many requests, please try again later", Retry_After="0")])
    async with connected(server, timeout_s=0.7) as cluster:
        with pytest.raises(
            UnavailableError, match=f"cannot create {PODS} within .* too many requests, please try again later"
        ):
            await cluster.create(PODS, {})

        assert cluster.pace.limit < 2
        assert len(server.seen) <= 0.7 / SHORTEST_S + 1


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
    server = FaultyServer([wants("Bearer new")])
    source = Tokens("", "old", "new", "newer")
    async with tokens_at(server, source=source) as cluster, anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(cluster.get, PODS)

    assert source.loads == 2
    assert server.tokens.count("Bearer old") == 5


async def test_credentials_may_take_longer_than_a_request() -> None:
    source = Tokens("", "old", "new", renew_at=1.0)
    async with tokens_at(FaultyServer([says({})]), source=source, timeout_s=0.2) as cluster:
        source.takes_s = 0.5
        assert await cluster.get(PODS) == {}

    assert source.loads == 2


async def test_what_remains_of_a_requests_time_runs_on_after_new_credentials() -> None:
    server = FaultyServer([refuses(401, "Unauthorized"), streams_nothing()])
    async with tokens_at(server, "old", "new", timeout_s=0.2) as cluster:
        with anyio.fail_after(2), pytest.raises(UnavailableError, match=r"within 0\.2 s: Unauthorized"):
            await cluster.get(PODS)


async def test_all_that_wait_for_credentials_share_why_there_are_none() -> None:
    source = Tokens("", "old", renew_at=1.0)
    said: list[str] = []

    async def get(name: str) -> None:
        with pytest.raises(UnavailableError) as caught:
            await cluster.get(f"{PODS}/{name}")
        said.append(str(caught.value))

    async with tokens_at(FaultyServer([says({})]), source=source) as cluster, anyio.create_task_group() as tasks:
        source.may_end = anyio.Event()
        for name in "abc":
            tasks.start_soon(get, name)
        await anyio.wait_all_tasks_blocked()
        source.may_end.set()

    assert sorted(said) == [f"cannot get {PODS}/{name}: there is no further token" for name in "abc"]
    assert source.loads == 2


async def test_who_waits_asks_for_credentials_where_who_asked_gave_up() -> None:
    server = FaultyServer([says({})])
    source = Tokens("", "old", "lost", "new", renew_at=1.0)
    async with tokens_at(server, source=source) as cluster, anyio.create_task_group() as waiting:
        source.may_end = anyio.Event()
        async with anyio.create_task_group() as asking:
            asking.start_soon(cluster.get, f"{PODS}/a")
            await anyio.wait_all_tasks_blocked()
            waiting.start_soon(cluster.get, f"{PODS}/b")
            await anyio.wait_all_tasks_blocked()
            asking.cancel_scope.cancel()
        source.may_end.set()

    assert server.seen == [f"GET {PODS}/b"]
    assert server.tokens == ["Bearer new"]


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


class Tokens:
    """A source of credentials whose token is another one each time, until there is none left. Each takes
    `takes_s`, and until `may_end`."""

    def __init__(self, server: str, *tokens: str, renew_at: float | None = None) -> None:
        self.server = server
        self.loads = 0
        self.takes_s = 0.0
        self.may_end: anyio.Event | None = None
        self._tokens = tokens
        self._renew_at = renew_at

    async def load(self) -> Access:
        self.loads += 1
        number = self.loads
        await anyio.sleep(self.takes_s)
        if self.may_end is not None:
            await self.may_end.wait()
        if number > len(self._tokens):
            raise StartError("there is no further token")
        renew_at = self._renew_at if number == 1 else None
        token = self._tokens[number - 1]
        return Access(server=self.server, authorization=f"Bearer {token}", renew_at=renew_at)

    async def place(self) -> Access:
        return Access(server=self.server, renew_at=0.0)


@asynccontextmanager
async def tokens_at(
    server: FaultyServer, *tokens: str, source: Tokens | None = None, timeout_s: float = 3.0
) -> AsyncGenerator[KubeCluster]:
    async with server.serving() as url:
        used = source or Tokens(url, *tokens)
        used.server = url
        async with connect_to(used, Connection(request_timeout_s=timeout_s), instance="test") as cluster:
            yield cluster


def wants(authorization: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        is_it = request.headers["Authorization"] == authorization
        return await (says({}) if is_it else refuses(401, "Unauthorized"))(request)

    return answer


def streams_nothing() -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        await anyio.Event().wait()
        raise AssertionError("woken")

    return answer
