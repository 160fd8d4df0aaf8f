from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest

from fusemld.executors.kubernetes.delivery import UNUSED_S, Delivery, entries
from fusemld.hooks.clusters import Json
from fusemld.hooks.executors import MountedCodeset
from fusemld.kube.client import KubeCluster
from fusemld.kube.connecting import Connection, connect
from fusemld.model.errors import FusemldError, StartError, UnavailableError
from tests.cluster.api import Api

LIMIT_BYTES = 4 * 1024 * 1024
There = Callable[[], set[str]]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def granted(role_kubeconfig: Path, namespace: str) -> AsyncIterator[KubeCluster]:
    """With the rights of the example's Role."""
    connection = Connection(kubeconfig=role_kubeconfig, namespace=namespace)
    async with connect(connection, instance="test-delivery") as connected:
        yield connected


@pytest.fixture
def there(api: Api, namespace: str) -> There:
    path = f"/api/v1/namespaces/{namespace}/configmaps"

    def found() -> set[str]:
        names = {item["metadata"]["name"] for item in api.items(path)}
        return {name for name in names if "codeset" in name}

    return found


@pytest.fixture
def codeset(tmp_path: Path) -> MountedCodeset:
    source = tmp_path / "code"
    source.mkdir()
    (source / "a.txt").write_text("a")
    return mounted(source, "d-1")


def mounted(source: Path, digest: str) -> MountedCodeset:
    return MountedCodeset(path="/project", project="team", name="mnist", version="1", digest=digest, source=source)


def test_everything_in_a_folder_is_packed_but_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run.sh").write_text("x")
    (tmp_path / "b" / "run.sh").chmod(0o755)
    (tmp_path / "a").symlink_to("b/run.sh")
    os.mkfifo(tmp_path / "pipe")

    found = [(one.path, one.content, one.target, one.is_executable) for one in entries(tmp_path)]

    run = tmp_path / "b" / "run.sh"
    assert found == [("a", None, "b/run.sh", False), ("b", None, None, False), ("b/run.sh", run, None, True)]


class Unasked:
    """No request is expected."""

    namespace = "x"
    instance = "test-delivery"

    async def create(self, path: str, body: Json) -> Json:
        raise AssertionError(path)

    async def delete(self, path: str) -> bool:
        raise AssertionError(path)

    async def delete_collection(self, path: str, selector: str) -> int:
        raise AssertionError(path)


@pytest.mark.parametrize(
    ("code", "meant"),
    [(errno.EMFILE, UnavailableError), (errno.ENOMEM, UnavailableError), (errno.EACCES, StartError)],
)
async def test_a_codeset_that_cannot_be_read_for_want_of_something_that_comes_back_is_tried_again(
    codeset: MountedCodeset, monkeypatch: pytest.MonkeyPatch, code: int, meant: type[FusemldError]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fusemld.executors.kubernetes.delivery.entries", fail)

    with pytest.raises(meant, match=f"cannot read the codeset .*{os.strerror(code)}"):
        await Delivery(Unasked(), LIMIT_BYTES).deliver([codeset])


@pytest.mark.cluster
async def test_attempts_that_start_together_create_a_codeset_once(
    granted: KubeCluster, there: There, codeset: MountedCodeset
) -> None:
    delivery = Delivery(granted, LIMIT_BYTES)
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(delivery.deliver, [codeset, codeset])

    assert granted.requests["create configmaps"] == 1
    assert len(there()) == 1


@pytest.mark.cluster
async def test_what_an_earlier_daemon_created_is_used(
    granted: KubeCluster, there: There, codeset: MountedCodeset
) -> None:
    first = await Delivery(granted, LIMIT_BYTES).deliver([codeset])

    again = await Delivery(granted, LIMIT_BYTES).deliver([codeset])

    assert first == again
    assert {name for bundle in first.values() for name in bundle.names} == there()


@pytest.mark.cluster
async def test_a_codeset_that_is_too_large_is_left_to_others(
    granted: KubeCluster, there: There, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(bytes(range(256)) * 100)

    assert await Delivery(granted, 100).deliver([mounted(tmp_path, "d-2")]) == {}
    assert there() == set()


@pytest.mark.cluster
async def test_only_what_nobody_has_used_for_a_while_is_swept(
    granted: KubeCluster, there: There, codeset: MountedCodeset, tmp_path: Path
) -> None:
    clock = Clock()
    delivery = Delivery(granted, LIMIT_BYTES, clock)
    other = tmp_path / "other"
    other.mkdir()
    used = next(iter((await delivery.deliver([mounted(other, "d-2")])).values()))
    unused = next(iter((await delivery.deliver([codeset])).values()))
    clock.now = 10.0
    delivery.release(unused.names)
    for clock.now in (10.0, UNUSED_S + 9.0):
        await delivery.sweep_unused()
        assert set(unused.names) <= there()

    clock.now = UNUSED_S + 10.0
    await delivery.sweep_unused()
    assert there() == set(used.names)

    await delivery.deliver([codeset])
    assert there() == {*used.names, *unused.names}


@pytest.mark.cluster
async def test_what_an_earlier_daemon_left_goes_but_what_an_adopted_pod_uses(
    granted: KubeCluster, there: There, codeset: MountedCodeset, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    earlier = Delivery(granted, LIMIT_BYTES)
    used = next(iter((await earlier.deliver([mounted(other, "d-2")])).values()))
    await earlier.deliver([codeset])

    clock = Clock()
    delivery = Delivery(granted, LIMIT_BYTES, clock)
    delivery.hold(used.names)
    await delivery.sweep_unknown()
    assert there() == set(used.names)

    delivery.release(used.names)
    clock.now = UNUSED_S
    await delivery.sweep_unused()
    assert there() == set()


@pytest.mark.cluster
async def test_what_somebody_removed_is_created_again_once_there_is_doubt(
    granted: KubeCluster, api: Api, there: There, codeset: MountedCodeset
) -> None:
    delivery = Delivery(granted, LIMIT_BYTES)
    made = next(iter((await delivery.deliver([codeset])).values()))
    assert api.delete(f"/api/v1/namespaces/{granted.namespace}/configmaps/{made.names[0]}")
    delivery.doubt()

    await delivery.deliver([codeset])

    assert there() == set(made.names)
