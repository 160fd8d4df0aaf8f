from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from fusemld.daemon.applications import ApplicationBook
from fusemld.daemon.removal import Removal
from fusemld.hooks.clusters import IN_CLUSTER_URL, INSTANCE
from fusemld.hooks.stores import ObjectStore, StoreConnection, StoredObject
from fusemld.kube.client import KubeCluster
from fusemld.kube.clusters import KubeClusters
from fusemld.kube.connecting import Connection, connect
from fusemld.model.application import Application
from fusemld.model.errors import ConflictError, ForbiddenError, UnavailableError
from fusemld.model.extension import Endpoint, Extension, ResolvedService, Service, ServiceAccess
from fusemld.registry.registry import Registry
from fusemld.store.errors import DamagedError
from fusemld.store.sqlite import Store
from tests.cluster.api import Api
from tests.daemon.room import NoServices

OURS = "i-removal"
DISCOVERED = ResolvedService(
    requirement="kserve", extension_id="cluster-kserve", service_id="kserve-api", url=IN_CLUSTER_URL
)
STORE = ResolvedService(requirement="s3", extension_id="minio", service_id="s3", url="http://minio")


class ForgetfulStore:
    """An object store that notes what it is told to delete, and may refuse."""

    connection = StoreConnection(endpoint=None, region="x")

    def __init__(self, refuses: str = "") -> None:
        self.deleted: list[str] = []
        self._refuses = refuses

    async def list(self, url: str) -> tuple[StoredObject, ...]:
        raise AssertionError(url)

    async def read(self, url: str, limit_bytes: int) -> bytes:
        raise AssertionError(url)

    async def download(self, url: str, folder: Path) -> None:
        raise AssertionError(url)

    async def copy(self, source: str, target: str) -> None:
        raise AssertionError(source)

    async def delete(self, url: str) -> None:
        if url == self._refuses:
            raise ForbiddenError(f"cannot delete {url}: Access Denied")
        self.deleted.append(url)

    async def ensure_bucket(self, bucket: str) -> None:
        raise AssertionError(bucket)


class Factory:
    schemes: tuple[str, ...] = ("s3",)

    def __init__(self, store: ForgetfulStore) -> None:
        self._store = store

    def open(self, access: ServiceAccess) -> ObjectStore:
        assert access.service.extension_id == "minio"
        return self._store


def removal(
    clusters: KubeClusters, registry: Registry | None = None, store: ForgetfulStore | None = None
) -> Removal:
    stores = {} if store is None else {"s3": Factory(store)}
    return Removal(NoServices(), clusters, registry or Registry(), stores)


def application(namespace: str = "models", *names: str, **more: object) -> Application:
    made = Application(
        name="app",
        type="predictor",
        url="http://x",
        objects=tuple(f"v1/{name.partition('/')[0]}/{namespace}/{name.partition('/')[2]}" for name in names),
        cluster=DISCOVERED if names else None,
    )
    return msgspec.structs.replace(made, **more)


@pytest.fixture
async def connected(role_kubeconfig: Path, namespace: str) -> AsyncIterator[KubeCluster]:
    async with connect(Connection(kubeconfig=role_kubeconfig, namespace=namespace), instance=OURS) as cluster:
        yield cluster


def create(api: Api, namespace: str, name: str, instance: str) -> str:
    path = f"/api/v1/namespaces/{namespace}/secrets"
    api.create(path, {"metadata": {"name": name, "labels": {INSTANCE: instance}}})
    return f"{path}/{name}"


@pytest.mark.cluster
async def test_exactly_the_objects_of_the_application_that_are_ours_are_removed_and_again_is_fine(
    api: Api, namespace: str, connected: KubeCluster
) -> None:
    ours = create(api, namespace, "ours", OURS)
    others = [create(api, namespace, "foreign", "i-other"), create(api, namespace, "neighbour", OURS)]
    served = application(namespace, "Secret/ours", "Secret/foreign", "Secret/gone", "Unknown/x")
    served = msgspec.structs.replace(served, objects=(*served.objects, f"no.example.com/v1/Kind/{namespace}/x"))

    for _ in range(2):
        await removal(KubeClusters(connected)).remove(served)

    assert api.find(ours) is None
    assert all(api.find(path) for path in others)


@pytest.mark.cluster
async def test_secrets_are_removed_by_somebody_who_may_not_read_them(
    api: Api, namespace: str, connected: KubeCluster
) -> None:
    ours = create(api, namespace, "ours", OURS)
    foreign = create(api, namespace, "foreign", "i-other")

    with pytest.raises(ForbiddenError):
        await connected.get(ours)
    await removal(KubeClusters(connected)).remove(application(namespace, "Secret/ours", "Secret/foreign"))

    assert api.find(ours) is None
    assert api.find(foreign) is not None


@pytest.mark.cluster
async def test_another_cluster_than_the_one_it_was_made_in_is_not_taken_for_it(
    api: Api, namespace: str, connected: KubeCluster
) -> None:
    served = application(namespace, "Secret/ours", server="https://old.example:6443")

    with pytest.raises(
        ConflictError, match=r"made in the cluster https://old.example:6443, and the cluster https://"
    ):
        await removal(KubeClusters(connected)).remove(served)

    ours = create(api, namespace, "ours", OURS)
    await removal(KubeClusters(connected)).remove(served)
    assert api.find(ours) is None, "it is the same cluster by another address"


async def test_a_cluster_that_cannot_be_reached_now_is_unavailable() -> None:
    registry = Registry()
    endpoint = Endpoint(url="http://127.0.0.1:1")
    registry.upsert(Extension(id="far", services=(Service(id="kserve", endpoints=(endpoint,)),)))
    far = ResolvedService(requirement="k", extension_id="far", service_id="kserve", url=endpoint.url)

    with pytest.raises(UnavailableError):
        await removal(KubeClusters(None), registry).remove(application("models", "Secret/x", cluster=far))


@pytest.mark.parametrize(
    ("served_in", "words"),
    [
        (DISCOVERED, "no cluster is configured any more"),
        (
            ResolvedService(requirement="k", extension_id="far", service_id="k", url="http://x"),
            "no such extension",
        ),
    ],
)
async def test_a_cluster_that_nobody_can_name_any_more_is_a_conflict(
    served_in: ResolvedService, words: str
) -> None:
    with pytest.raises(ConflictError, match=f"cluster cannot be found again .*{words}"):
        await removal(KubeClusters(None)).remove(application("models", "Secret/x", cluster=served_in))


async def test_what_is_out_of_reach_for_good_can_be_left_behind_but_no_service_of_this_host() -> None:
    services = NoServices()
    removal = Removal(services, KubeClusters(None), Registry(), {})
    made = application("models", "Secret/x", services=("predictor",), copies=("s3://b/app/",), store=STORE)

    await removal.remove(made, orphan=True)

    assert services.removed == ["predictor"]


async def test_copies_of_the_model_are_deleted_and_those_that_may_not_be_stay() -> None:
    registry, store = Registry(), ForgetfulStore(refuses="s3://b/refused/")
    registry.upsert(Extension(id="minio", services=(Service(id="s3", endpoints=(Endpoint(url="http://minio"),)),)))
    served = application(copies=("s3://b/refused/", "s3://b/app/"), store=STORE)

    await removal(KubeClusters(None), registry, store).remove(served)

    assert store.deleted == ["s3://b/app/"]


async def test_copies_in_a_store_that_nobody_knows_any_more_stop_nothing() -> None:
    await removal(KubeClusters(None)).remove(application(copies=("s3://b/app/",), store=STORE))


async def test_copies_that_an_update_does_not_use_any_more_are_deleted_before_it_is_recorded(
    tmp_path: Path,
) -> None:
    """Its model lies in another bucket. What cannot be deleted stops nothing."""
    registry, objects = Registry(), ForgetfulStore(refuses="s3://c/app/")
    registry.upsert(Extension(id="minio", services=(Service(id="s3", endpoints=(Endpoint(url="http://minio"),)),)))
    async with Store.open(tmp_path / "fusemld.db") as store:
        book = ApplicationBook(store, removal(KubeClusters(None), registry, objects))
        for run, copies in enumerate((("s3://a/app/",), ("s3://a/app/", "s3://b/app/"), ("s3://c/app/",), ())):
            await book.record(application(copies=copies, store=STORE, run=f"r{run}", run_created_at=float(run)))

        assert (await book.all())[0].run == "r3"

    assert objects.deleted == ["s3://a/app/", "s3://b/app/"]


async def test_an_application_that_cannot_be_read_is_not_taken_for_one_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "fusemld.db"
    async with Store.open(path) as store:
        book = ApplicationBook(store, removal(KubeClusters(None)))
        good, bad = application(), application(name="bad")
        await book.record(good)
        await book.record(bad)
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE applications SET data = '{' WHERE key = 'bad'")

        for refused in (book.get("bad"), book.record(bad), book.delete("bad")):
            with pytest.raises(DamagedError, match="cannot read the entry 'bad' of the table applications"):
                await refused

        assert await book.all() == [good]
