"""Against the real API server where it can do what is asked, against servers that go wrong where it cannot."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemld.hooks.clusters import Json
from fusemld.kube.client import KubeCluster
from fusemld.kube.connecting import Connection, connect
from fusemld.kube.reflector import Reflector, differences
from fusemld.model.errors import ForbiddenError
from tests.kube.faults import FaultyServer, connected, event, item, listing, refuses, says, streams

PODS = "/api/v1/namespaces/x/pods"
DEADLINE_S = 10.0


class Witness:
    """What a reflector tells, as `+name`, `~name`, `-name` with the version."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._more = anyio.Event()

    def __call__(self, old: Json | None, new: Json | None) -> None:
        sign = "+" if old is None else "-" if new is None else "~"
        metadata = (new or old or {})["metadata"]
        self.told.append(f"{sign}{metadata['name']}")
        self._more.set()
        self._more = anyio.Event()

    async def until(self, condition: Callable[[list[str]], bool]) -> None:
        with anyio.fail_after(DEADLINE_S):
            while not condition(self.told):
                await self._more.wait()


@asynccontextmanager
async def running(
    cluster: KubeCluster, path: str = PODS, params: dict[str, str] | None = None, **timing: float
) -> AsyncGenerator[tuple[Reflector, Witness]]:
    witness = Witness()
    reflector = Reflector(cluster, path, params or {}, witness, backoff_from_s=0.01, **timing)
    async with anyio.create_task_group() as tasks:
        await tasks.start(reflector.run)
        yield reflector, witness
        tasks.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - a state that nobody tells of, with a deadline
            await anyio.sleep(0.005)


async def for_ever() -> None:
    await anyio.Event().wait()


def version(names_and_versions: dict[str, tuple[int, int]]) -> dict[str, Any]:
    return {name: item(name, number, f"{name}-{uid}") for name, (uid, number) in names_and_versions.items()}


@pytest.mark.parametrize(
    ("known", "listed", "expected"),
    [
        ({}, {}, []),
        ({}, {"a": (1, 1)}, [(None, "a")]),
        ({"a": (1, 1)}, {}, [("a", None)]),
        ({"a": (1, 1)}, {"a": (1, 1)}, []),
        ({"a": (1, 1)}, {"a": (1, 2)}, [("a", "a")]),
        ({"a": (1, 1)}, {"a": (2, 2)}, [("a", None), (None, "a")]),
        ({"a": (1, 1), "b": (1, 1)}, {"b": (1, 2), "c": (1, 1)}, [("a", None), ("b", "b"), (None, "c")]),
    ],
)
def test_two_lists_differ_by_what_has_gone_changed_and_come(
    known: dict[str, tuple[int, int]],
    listed: dict[str, tuple[int, int]],
    expected: Sequence[tuple[str | None, str | None]],
) -> None:
    found = differences(version(known), version(listed))

    assert [(old and old["metadata"]["name"], new and new["metadata"]["name"]) for old, new in found] == expected


_LISTS = st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(1, 2), st.integers(1, 3)))


@given(known=_LISTS, listed=_LISTS)
def test_the_differences_lead_from_one_list_to_the_other(
    known: dict[str, tuple[int, int]], listed: dict[str, tuple[int, int]]
) -> None:
    objects = version(known)
    for old, new in differences(version(known), version(listed)):
        if new is None:
            assert old is not None
            assert objects.pop(old["metadata"]["name"]) == old
        else:
            assert objects.get(new["metadata"]["name"]) == old
            objects[new["metadata"]["name"]] = new

    assert objects == version(listed)


@pytest.mark.cluster
@pytest.mark.parametrize("kind", ["events", "configmaps"])
async def test_a_quiet_collection_of_the_real_server_never_counts_as_silent(
    kubeconfig: Path, namespace: str, kind: str
) -> None:
    path = f"/api/v1/namespaces/{namespace}/{kind}"
    async with (
        connect(Connection(kubeconfig=kubeconfig), instance="test") as cluster,
        running(cluster, path, {"labelSelector": "mine=yes"}, silence_s=1.2) as (reflector, _),
    ):
        await until(lambda: cluster.requests[f"watch {kind}"] >= 2)

        assert reflector.trouble == ""
        assert cluster.requests[f"list {kind}"] == 1


@pytest.mark.cluster
async def test_the_real_servers_changes_are_told_in_order(kubeconfig: Path, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    async with connect(Connection(kubeconfig=kubeconfig), instance="test") as cluster:
        await cluster.create(path, {"metadata": {"name": "before", "labels": {"mine": "yes"}}})
        async with running(cluster, path, {"labelSelector": "mine=yes"}) as (reflector, witness):
            await cluster.create(path, {"metadata": {"name": "one", "labels": {"mine": "yes"}}})
            await cluster.create(path, {"metadata": {"name": "others"}})
            await cluster.patch(f"{path}/one", {"data": {"a": "1"}})
            await cluster.delete(f"{path}/one")
            await witness.until(lambda told: "-one" in told)

            assert witness.told == ["+before", "+one", "~one", "-one"]
            assert list(reflector.objects) == ["before"]
            assert "managedFields" not in reflector.objects["before"]["metadata"]
            assert reflector.is_connected
            assert reflector.trouble == ""
            assert reflector.age_s() < DEADLINE_S

    assert not reflector.is_connected


@pytest.mark.cluster
async def test_the_real_server_is_listed_again_and_again_without_telling_twice(
    kubeconfig: Path, namespace: str
) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    async with connect(Connection(kubeconfig=kubeconfig), instance="test") as cluster:
        await cluster.create(path, {"metadata": {"name": "one", "labels": {"mine": "yes"}}})
        async with running(cluster, path, {"labelSelector": "mine=yes"}, relist_s=0.1) as (reflector, witness):
            await until(lambda: cluster.requests["list configmaps"] >= 3)
            await cluster.patch(f"{path}/one", {"data": {"a": "1"}})
            await witness.until(lambda told: "~one" in told)

            assert witness.told == ["+one", "~one"]
            assert reflector.trouble == ""


async def test_what_is_known_is_steady_only_when_the_server_was_back_for_as_long_as_it_was_away() -> None:
    gate = anyio.Event()
    script = [listing(5, ("a", 1)), streams(then=gate.wait), refuses(500, "away")]
    server = FaultyServer(script)
    async with connected(server) as cluster, running(cluster) as (reflector, _):
        await until(lambda: reflector.is_connected)
        first = reflector.is_steady
        gate.set()
        await until(lambda: reflector.trouble != "")
        away = reflector.is_steady
        script[2:] = [*[refuses(500, "away")] * len(server.seen), listing(6, ("a", 1)), streams(then=for_ever)]
        await until(lambda: reflector.is_connected)
        back = reflector.is_steady
        await until(lambda: reflector.is_steady)

    assert (first, away, back) == (True, False, False)


async def test_a_list_comes_in_pages() -> None:
    pages = [listing(5, ("a", 1), ("b", 2), **{"continue": "more"}), listing(5, ("c", 3))]
    server = FaultyServer([*pages, streams(then=for_ever)])
    async with connected(server) as cluster, running(cluster, params={"labelSelector": "x"}) as (reflector, _):
        await until(lambda: reflector.is_connected)

        assert list(reflector.objects) == ["a", "b", "c"]
        assert server.seen[:2] == [
            f"GET {PODS}?labelSelector=x&limit=500",
            f"GET {PODS}?labelSelector=x&limit=500&continue=more",
        ]
        assert "resourceVersion=5&allowWatchBookmarks=true&timeoutSeconds=" in server.seen[2]


async def test_where_the_server_forgets_between_pages_all_is_listed_at_once() -> None:
    first = listing(5, ("a", 1), **{"continue": "more"})
    server = FaultyServer([first, refuses(410, "expired"), listing(6, ("b", 1)), streams(then=for_ever)])
    async with connected(server) as cluster, running(cluster) as (reflector, _):
        assert list(reflector.objects) == ["b"]
        assert server.seen[2] == f"GET {PODS}"


async def test_a_watch_that_ends_goes_on_from_the_last_version_also_of_a_bookmark() -> None:
    server = FaultyServer(
        [
            listing(1, ("a", 1)),
            streams(event("MODIFIED", item("a", 2)), event("BOOKMARK", {"metadata": {"resourceVersion": "7"}})),
            streams(event("DELETED", item("a", 9)), then=for_ever),
        ]
    )
    async with connected(server) as cluster, running(cluster) as (reflector, witness):
        await witness.until(lambda told: "-a" in told)

        assert witness.told == ["+a", "~a", "-a"]
        assert "resourceVersion=7" in server.seen[2]
        assert not reflector.objects


async def test_an_event_of_a_known_version_is_not_told_again() -> None:
    again = event("ADDED", item("a", 1)) + event("ADDED", item("b", 2))
    server = FaultyServer([listing(1, ("a", 1)), streams(again, then=for_ever)])
    async with connected(server) as cluster, running(cluster) as (_, witness):
        await witness.until(lambda told: "+b" in told)

        assert witness.told == ["+a", "+b"]


EXPIRED = {"kind": "Status", "code": 410, "message": "too old resource version"}
FAULTS = {
    "410 as an event": streams(event("ERROR", EXPIRED)),
    "410 as a status": refuses(410, "too old resource version"),
    "another error event": streams(event("ERROR", {"kind": "Status", "code": 500, "message": "decode error"})),
    "an error event without sense": streams(event("ERROR", {"code": "x"})),
    "an event that is no JSON": streams("{]\n"),
    "an event without an object": streams('{"type":"ADDED"}\n'),
    "an event without a name": streams(event("ADDED", {"metadata": {"resourceVersion": "2"}})),
    "an event without a version": streams(event("ADDED", {"metadata": {"name": "b"}})),
    "an event without metadata": streams(event("ADDED", {})),
    "an event of an unknown type": streams(event("MOVED", item("b", 2))),
    "silence": streams(then=for_ever),
    "a refusal that will not pass": refuses(403, "not any more"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_after_a_fault_everything_is_listed_anew_and_the_difference_told(fault: str) -> None:
    healthy = streams(event("ADDED", item("c", 10)), then=for_ever)
    server = FaultyServer([listing(1, ("a", 1)), FAULTS[fault], listing(9, ("b", 9)), healthy])
    async with connected(server) as cluster, running(cluster, silence_s=0.2) as (reflector, witness):
        await witness.until(lambda told: "+c" in told)

        assert witness.told == ["+a", "-a", "+b", "+c"]
        assert "resourceVersion=9" in server.seen[3]
        assert reflector.trouble == ""


async def test_a_watch_that_is_cut_goes_on_from_its_version_without_a_new_list() -> None:
    cut = streams(event("ADDED", item("b", 2)), '{"type":"ADD', then=anyio.lowlevel.checkpoint, is_cut=True)
    server = FaultyServer([listing(1), cut, streams(event("ADDED", item("c", 3)), then=for_ever)])
    async with connected(server) as cluster, running(cluster) as (_, witness):
        await witness.until(lambda told: "+c" in told or len(server.seen) > 3)

    assert [seen for seen in server.seen if "watch" not in seen] == [f"GET {PODS}?limit=500"]


async def test_a_server_that_always_says_410_is_asked_ever_more_rarely() -> None:
    script = [listing(1, ("a", 1)), refuses(410, "too old resource version")] * 5
    server = FaultyServer([*script, listing(1, ("a", 1)), streams(then=for_ever)])
    async with connected(server) as cluster, running(cluster) as (reflector, witness):
        before = anyio.current_time()
        await until(lambda: reflector.is_connected)

        assert anyio.current_time() - before > (0.01 + 0.02 + 0.04 + 0.08 + 0.16) / 2
        assert witness.told == ["+a"]


async def test_a_watch_that_ends_at_once_each_time_is_told_and_not_repeated_without_pause() -> None:
    server = FaultyServer([listing(1), streams()])
    async with connected(server) as cluster, running(cluster) as (reflector, _):
        before = anyio.current_time()
        await until(lambda: len(server.seen) >= 6)

        assert anyio.current_time() - before > (0.01 + 0.02 + 0.04 + 0.08) / 2
        await until(lambda: "ends the watch at once" in reflector.trouble)


async def test_while_the_server_is_in_trouble_the_reflector_says_so_and_then_goes_on() -> None:
    down = [refuses(500, "etcd is away")] * 8
    healthy = streams(event("ADDED", item("b", 3)), then=for_ever)
    server = FaultyServer([listing(1, ("a", 1)), *down, listing(2, ("a", 1)), healthy])
    async with connected(server) as cluster, running(cluster) as (reflector, witness):
        await until(lambda: "etcd is away" in reflector.trouble)
        assert not reflector.is_connected
        assert list(reflector.objects) == ["a"]
        await witness.until(lambda told: "+b" in told)

        assert witness.told == ["+a", "+b"]
        assert reflector.trouble == ""


async def test_one_bad_object_in_a_list_is_set_aside() -> None:
    items = [item("a", 1), {"spec": {}}, {"metadata": {"name": 5}}, item("b", 1)]
    server = FaultyServer([says({"metadata": {"resourceVersion": "1"}, "items": items}), streams(then=for_ever)])
    async with connected(server) as cluster, running(cluster) as (reflector, _):
        assert list(reflector.objects) == ["a", "b"]


async def test_before_the_first_list_a_refusal_is_raised() -> None:
    async with connected(FaultyServer([refuses(403, "no list of pods for you")])) as cluster:
        with pytest.raises(ForbiddenError, match="no list of pods for you"):
            await Reflector(cluster, PODS, {}, Witness()).run()


async def test_before_the_first_list_a_server_in_trouble_is_waited_for() -> None:
    server = FaultyServer([*[refuses(503, "not ready")] * 5, listing(1, ("a", 1)), streams(then=for_ever)])
    async with connected(server) as cluster, running(cluster) as (reflector, _):
        assert list(reflector.objects) == ["a"]


async def test_a_failure_of_the_one_who_is_told_ends_the_reflector() -> None:
    def on_change(_: Json | None, new: Json | None) -> None:
        raise KeyError("mine")

    async with connected(FaultyServer([listing(1, ("a", 1)), streams(then=for_ever)])) as cluster:
        with pytest.raises(KeyError):
            await Reflector(cluster, PODS, {}, on_change).run()
