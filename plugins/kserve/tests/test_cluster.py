"""The predictor step against a real API server with KServe's definition, and a real object store.

The tests write the statuses that KServe's controller would.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from fusemld_kserve import waiting
from fusemld_kserve.predictor import KServePredictor
from fusemld_s3.service import RcloneKind
from fusemld_s3.store import S3StoreFactory

from fusemld.hooks.clusters import IN_CLUSTER_URL, Cluster, Json
from fusemld.hooks.services import ServiceAddress
from fusemld.hooks.stores import ObjectStore
from fusemld.kube.clusters import KubeClusters
from fusemld.kube.connecting import Connection, connect
from fusemld.model.application import Application
from fusemld.model.errors import ConflictError, FusemldError, NotFoundError, StartError
from fusemld.model.extension import ResolvedService, ServiceAccess
from fusemld.model.run import AttemptKey
from tests.cluster import images, role
from tests.cluster.api import Api
from tests.cluster.local import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.services, pytest.mark.usefixtures("inferenceservices")]

KEYS = {"access_key": "test-access-key-0001", "secret_key": "test-secret-key-0001"}
INSTANCE = "fusemld.io/instance"
ZONE_ENDPOINT = "http://minio.models:9000"
SKLEARN = "flavors:\n  python_function: {}\n  sklearn: {pickled_model: model.pkl}\n"
ONNX = "flavors:\n  onnx: {data: model.onnx}\n  python_function: {}\n"
READY = [{"type": each, "status": "True"} for each in ("PredictorReady", "IngressReady", "Ready")]
URL = "http://app.models.example.com"
FAILED = {
    "conditions": [
        {"type": "PredictorReady", "status": "False", "reason": "Crashing", "message": "back-off"},
        {"type": "Ready", "status": "False"},
    ],
    "modelStatus": {
        "transitionStatus": "BlockedByFailedLoad",
        "lastFailureInfo": {"reason": "ModelLoadFailed", "message": "no CUDA", "exitCode": 1},
    },
}
BUCKET = "models"
DEADLINE_S = 20


class Book:
    """Applications in memory, with the refusal that the daemon's have."""

    def __init__(self) -> None:
        self.entries: dict[str, Application] = {}

    async def get(self, name: str) -> Application | None:
        return self.entries.get(name)

    async def record(self, application: Application) -> None:
        known = self.entries.get(application.name)
        if known is not None and known.run_created_at > application.run_created_at:
            raise ConflictError(f"cannot update application {application.name}: a newer run has updated it")
        self.entries[application.name] = application


class Context:
    """What a step of the run sees; `is_killed` and `notes` are the test's."""

    executor = "kubernetes"
    workflow = "mlflow-e2e"
    project = "default"
    codesets: Mapping[str, Any] = {}
    outputs = ("prediction-url",)

    def __init__(self, world: World, run: str, created_at: float, inputs: Mapping[str, str]) -> None:
        self._world = world
        self.key = AttemptKey(run, "predictor", 1)
        self.run_created_at = created_at
        self.inputs = {"app_name": "app", **inputs}
        self.extensions = {
            "s3-storage": access("s3", ZONE_ENDPOINT, world.keys),
            "kserve": world.kserve,
        }
        self.clusters = world.clusters
        self.applications = world.book
        self.work = world.work
        self.is_killed = False
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def log(self, text: str) -> None:
        self.notes.append(text)

    async def as_daemon(self, given: ServiceAccess) -> ServiceAccess:
        return access("s3", self._world.store_url, given.configuration)

    def object_store(self, given: ServiceAccess) -> ObjectStore:
        return S3StoreFactory().open(given)


class Running:
    """A step under way."""

    def __init__(self) -> None:
        self._over = anyio.Event()
        self._url = ""
        self.error: FusemldError | None = None

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    async def run(self, step: KServePredictor, context: Context) -> None:
        try:
            # the context has what the step needs on a cluster, and nothing for local services
            outputs = await step.run(context)  # type: ignore[arg-type]
            self._url = outputs["prediction-url"]
        except FusemldError as error:
            self.error = error
        self._over.set()

    async def url(self) -> str:
        error = await self.failure()
        assert error is None, error
        return self._url

    async def failure(self) -> FusemldError | None:
        with anyio.fail_after(DEADLINE_S):
            await self._over.wait()
        return self.error


class World:
    """A namespace, an object store, and one life of the daemon after another."""

    def __init__(self, api: Api, cluster: Cluster, store: ServiceAddress, work: Path) -> None:
        self.api = api
        self.cluster = cluster
        self.clusters = KubeClusters(cluster)
        self.kserve = access("kserve-api", IN_CLUSTER_URL, {})
        self.book = Book()
        self.work = work
        self.store_url = store.url
        self.keys = {
            "AWS_ACCESS_KEY_ID": KEYS["access_key"],
            "AWS_SECRET_ACCESS_KEY": KEYS["secret_key"],
        }
        self.step = KServePredictor()
        self.namespace = cluster.namespace
        self.path = f"/apis/serving.kserve.io/v1beta1/namespaces/{self.namespace}/inferenceservices/app"

    @property
    def store(self) -> ObjectStore:
        return S3StoreFactory().open(access("s3", self.store_url, self.keys))

    def context(self, model: str, run: str = "run-1", created_at: float = 1.0, **inputs: str) -> Context:
        return Context(self, run, created_at, {"model": f"s3://{BUCKET}/{model}", **inputs})

    async def until(self, is_so: Callable[[], bool]) -> None:
        deadline = anyio.current_time() + DEADLINE_S
        while not await to_thread.run_sync(is_so):
            assert anyio.current_time() < deadline
            await anyio.sleep(0.05)

    def service(self) -> Json | None:
        return self.api.find(self.path)

    async def applied(self, run: str) -> Json:
        """The service as that run applied it."""

        def is_so() -> bool:
            found = self.service()
            return found is not None and found["metadata"]["annotations"]["fusemld.io/run"] == run

        await self.until(is_so)
        found = self.service()
        assert found is not None
        return found

    def says(self, status: Json) -> None:
        """KServe's controller writes the status."""
        self.api.patch(f"{self.path}/status", {"status": status})

    async def serves(self, run: str, **status: Any) -> None:
        """KServe's controller has the service of the run ready."""
        generation = (await self.applied(run))["metadata"]["generation"]
        self.says(
            {"observedGeneration": generation, "conditions": READY, "url": URL, "modelStatus": None, **status}
        )

    async def deploy(self, context: Context) -> str:
        """The prediction URL, with a controller that has everything ready at once."""
        async with self.running(context) as running:
            await self.serves(context.key.run)
            return await running.url()

    @asynccontextmanager
    async def running(self, context: Context) -> AsyncIterator[Running]:
        """The step under way; what is still under way at the end is cancelled, as by a daemon that stops."""
        running = Running()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(running.run, self.step, context)
            try:
                yield running
            finally:
                tasks.cancel_scope.cancel()

    def ours(self) -> list[str]:
        """The Secrets and ServiceAccounts of this daemon, as KIND/NAME."""
        selector = f"?labelSelector={INSTANCE}={self.cluster.instance}"
        core = f"/api/v1/namespaces/{self.namespace}"
        return sorted(
            f"{kind}/{each['metadata']['name']}"
            for kind in ("secrets", "serviceaccounts")
            for each in self.api.items(f"{core}/{kind}{selector}")
        )

    async def copies(self) -> list[str]:
        found = await self.store.list(f"s3://{BUCKET}/fusemld-serving/{self.cluster.instance}/")
        return sorted(each.key for each in found)


def access(resource: str, url: str, configuration: Mapping[str, str]) -> ServiceAccess:
    resolved = ResolvedService(
        requirement=resource, extension_id=resource, service_id=resource, url=url, service_resource=resource
    )
    return ServiceAccess(service=resolved, configuration=dict(configuration), secret_keys=frozenset(configuration))


@pytest.fixture(scope="session")
def object_store(start_service: Callable[..., ServiceAddress]) -> ServiceAddress:
    """Its bucket holds models that nobody loads here."""
    address = start_service(RcloneKind(), KEYS)
    models = {
        "sklearn": {"MLmodel": SKLEARN, "model.pkl": "pickle", "requirements.txt": "scikit-learn==1.7.2\n"},
        "newer": {"MLmodel": SKLEARN, "model.pkl": "newer pickle"},
        "onnx": {"MLmodel": ONNX, "model.onnx": "graph", "tensors": "weights", "conda.yaml": "name: x\n"},
        "skops": {"MLmodel": "flavors:\n  sklearn: {pickled_model: model.skops}\n", "model.skops": "zip"},
        "spark": {"MLmodel": "flavors:\n  spark: {}\n", "data": "x"},
    }
    for model, files in models.items():
        for file, text in files.items():
            target = address.folder / "data" / BUCKET / model / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    return address


@pytest.fixture
async def world(
    api: Api, kubeconfig: Path, namespace: str, object_store: ServiceAddress, tmp_path: Path
) -> AsyncIterator[World]:
    connection = Connection(kubeconfig=kubeconfig, namespace=namespace)
    async with connect(connection, instance=f"i-{secrets.token_hex(4)}") as connected:
        yield World(api, connected, object_store, tmp_path)


async def test_a_model_becomes_an_inference_service_with_access_to_its_store_and_the_url_follows(
    world: World,
) -> None:
    context = world.context(
        "sklearn", runtime_version="1.6.0", resources_limits="{cpu: 1, memory: 1Gi}", verbose="true"
    )

    url = await world.deploy(context)

    assert url == f"{URL}/v2/models/app/infer"
    service = world.service()
    assert service is not None
    predictor = service["spec"]["predictor"]
    assert predictor["model"] == {
        "modelFormat": {"name": "sklearn"},
        "protocolVersion": "v2",
        "runtimeVersion": "1.6.0",
        "storageUri": f"s3://{BUCKET}/sklearn",
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
    }
    assert service["metadata"]["labels"][INSTANCE] == world.cluster.instance
    assert service["metadata"]["annotations"]["fusemld.io/workflow"] == "mlflow-e2e"
    account_name = predictor["serviceAccountName"]
    assert world.ours() == [f"secrets/{account_name}", f"serviceaccounts/{account_name}"]
    core = f"/api/v1/namespaces/{world.namespace}"
    assert world.api.get(f"{core}/serviceaccounts/{account_name}")["secrets"] == [{"name": account_name}]
    secret = world.api.get(f"{core}/secrets/{account_name}")
    assert base64.b64decode(secret["data"]["AWS_SECRET_ACCESS_KEY"]).decode() == KEYS["secret_key"]
    notes = secret["metadata"]["annotations"]
    assert notes["serving.kserve.io/s3-endpoint"] == "minio.models:9000"
    assert notes["serving.kserve.io/s3-usehttps"] == "0"
    assert await world.copies() == []
    application = world.book.entries["app"]
    assert (application.url, application.revision, application.services) == (url, 1, ())
    assert application.objects[0] == f"serving.kserve.io/v1beta1/InferenceService/{world.namespace}/app"
    assert application.cluster is not None
    assert application.cluster.url == IN_CLUSTER_URL
    assert any("waiting for app" in note for note in context.notes)
    assert KEYS["secret_key"] not in "\n".join(context.notes)


async def test_the_layout_an_engine_wants_is_made_inside_the_store_once(world: World) -> None:
    url = await world.deploy(world.context("onnx"))

    made = await world.copies()
    assert url == f"{URL}/v2/models/app/infer"
    address = served(world)
    below = address.removeprefix(f"s3://{BUCKET}/")
    assert below.startswith(f"fusemld-serving/{world.cluster.instance}/app/")
    assert made == [f"{below}/app/1/model.onnx", f"{below}/app/1/tensors"]
    assert await world.store.read(f"{address}/app/1/tensors", 100) == b"weights"

    await world.deploy(world.context("onnx"))

    assert (served(world), await world.copies()) == (address, made)


async def test_a_newer_run_updates_in_place_and_what_served_before_is_removed(world: World) -> None:
    url = await world.deploy(world.context("onnx"))
    before, service = world.ours(), world.service()
    assert service is not None

    newer = world.context("newer", run="run-2", created_at=2.0)
    assert await world.deploy(newer) == url

    after = world.service()
    assert after is not None
    assert after["metadata"]["uid"] == service["metadata"]["uid"]
    assert served(world) == f"s3://{BUCKET}/newer"
    assert len(world.ours()) == 2
    assert not set(world.ours()) & set(before)
    assert await world.copies() == []
    application = world.book.entries["app"]
    assert (application.run, application.revision) == ("run-2", 2)
    assert remembered(world) == []


async def test_a_model_that_cannot_be_loaded_fails_with_kserves_words_and_leaves_nothing(world: World) -> None:
    context = world.context("onnx")
    async with world.running(context) as running:
        await world.applied("run-1")
        world.says(FAILED)
        error = await running.failure()

    assert isinstance(error, StartError)
    assert "BlockedByFailedLoad: ModelLoadFailed: exit status 1: no CUDA" in str(error)
    assert "Predictor not ready: Crashing: back-off" in str(error)
    await world.until(lambda: world.service() is None)
    assert world.ours() == []
    assert await world.copies() == []
    assert world.book.entries == {}
    assert remembered(world) == []


async def test_a_failed_update_puts_back_what_served_before(world: World) -> None:
    await world.deploy(world.context("sklearn"))
    before, ours, entry = spec(world), world.ours(), world.book.entries["app"]

    async with world.running(world.context("onnx", run="run-2", created_at=2.0)) as running:
        await world.applied("run-2")
        world.says(FAILED)
        error = await running.failure()

    assert isinstance(error, StartError)
    assert spec(world) == before
    assert (await world.applied("run-1"))["metadata"]["annotations"]["fusemld.io/run-created-at"] == "1.0"
    assert world.ours() == ours
    assert await world.copies() == []
    assert world.book.entries["app"] == entry
    assert remembered(world) == []


async def test_what_could_not_be_put_back_is_put_back_by_the_next_update_that_fails(world: World) -> None:
    await world.deploy(world.context("sklearn"))
    before, ours = spec(world), world.ours()
    async with world.running(world.context("newer", run="run-2", created_at=2.0)):
        await world.applied("run-2")

    async with world.running(world.context("onnx", run="run-3", created_at=3.0)) as running:
        await world.applied("run-3")
        world.says(FAILED)
        assert isinstance(await running.failure(), StartError)

    assert spec(world) == before
    assert world.ours() == ours
    assert remembered(world) == []


async def test_a_newer_run_that_has_nothing_to_serve_does_not_disturb_one_that_waits(world: World) -> None:
    async with world.running(world.context("sklearn")) as older:
        await world.applied("run-1")
        async with world.running(world.context("absent", run="run-2", created_at=2.0)) as newer:
            assert isinstance(await newer.failure(), NotFoundError)
        await world.serves("run-1")
        await older.url()

    assert world.book.entries["app"].run == "run-1"
    assert remembered(world) == []


async def test_a_step_that_is_killed_puts_back_what_served_before(world: World) -> None:
    await world.deploy(world.context("sklearn"))
    before, ours = spec(world), world.ours()

    context = world.context("newer", run="run-2", created_at=2.0)
    async with world.running(context):
        await world.applied("run-2")
        context.is_killed = True

    assert spec(world) == before
    assert world.ours() == ours


async def test_a_step_that_ends_with_its_daemon_is_taken_up_by_the_next(world: World) -> None:
    await world.deploy(world.context("sklearn"))
    async with world.running(world.context("newer", run="run-2", created_at=2.0)):
        changed = await world.applied("run-2")

    world.step = KServePredictor()
    async with world.running(world.context("newer", run="run-2", created_at=2.0)) as running:
        await world.serves("run-2")
        await running.url()

    after = await world.applied("run-2")
    assert after["metadata"]["generation"] == changed["metadata"]["generation"], "nothing was applied anew"
    assert world.book.entries["app"].run == "run-2"
    assert len(world.ours()) == 2


async def test_a_step_that_is_run_again_after_it_was_recorded_changes_nothing(world: World) -> None:
    url = await world.deploy(world.context("sklearn"))
    before = await world.applied("run-1")

    world.step = KServePredictor()
    async with world.running(world.context("sklearn")) as running:
        assert await running.url() == url

    after = await world.applied("run-1")
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert world.book.entries["app"].revision == 1


async def test_an_older_run_never_overwrites_a_newer_even_where_only_the_cluster_knows(world: World) -> None:
    await world.deploy(world.context("newer", run="run-2", created_at=2.0))
    before = spec(world)

    for forgets in (False, True):
        if forgets:
            world.book.entries.clear()
        async with world.running(world.context("sklearn", run="run-1", created_at=1.0)) as running:
            error = await running.failure()
        assert isinstance(error, ConflictError)
        assert "the newer run run-2 has updated it, and its model stays" in str(error)

    assert spec(world) == before


async def test_a_newer_run_takes_over_from_one_that_waits_and_which_then_undoes_nothing(world: World) -> None:
    async with world.running(world.context("sklearn")) as older:
        await world.applied("run-1")
        async with world.running(world.context("newer", run="run-2", created_at=2.0)) as newer:
            await world.applied("run-2")
            error = await older.failure()
            await world.serves("run-2")
            await newer.url()

    assert isinstance(error, ConflictError)
    assert "run run-2 has updated it" in str(error)
    assert served(world) == f"s3://{BUCKET}/newer"
    assert len(world.ours()) == 2
    assert remembered(world) == []


async def test_a_run_that_was_ready_when_a_newer_took_over_records_and_removes_nothing(world: World) -> None:
    lock = world.step._locks["app"]
    async with world.running(world.context("sklearn")) as older:
        await world.applied("run-1")
        await lock.acquire()
        async with world.running(world.context("onnx", run="run-2", created_at=2.0)) as newer:
            await world.until(lambda: lock.statistics().tasks_waiting == 1)
            await world.serves("run-1")
            await world.until(lambda: lock.statistics().tasks_waiting == 2)
            lock.release()
            await world.applied("run-2")
            error = await older.failure()
            await world.serves("run-2")
            await newer.url()

    assert isinstance(error, ConflictError)
    assert "the newer run run-2 has updated it" in str(error)
    assert world.book.entries["app"].run == "run-2"
    assert len(world.ours()) == 2
    assert len(await world.copies()) == 2
    assert remembered(world) == []


@pytest.mark.parametrize("labels", [{}, {INSTANCE: "i-somebody-else"}])
async def test_a_service_of_somebody_else_is_never_touched(world: World, labels: Mapping[str, str]) -> None:
    foreign = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "app", "labels": labels},
        "spec": {"predictor": {"model": {"modelFormat": {"name": "sklearn"}, "storageUri": "s3://theirs/m"}}},
    }
    world.api.create(world.path.removesuffix("/app"), foreign)

    async with world.running(world.context("sklearn")) as running:
        error = await running.failure()

    assert isinstance(error, ConflictError)
    assert "and stays as it is; set another app_name" in str(error)
    assert served(world) == "s3://theirs/m"
    assert world.ours() == []


async def test_a_service_that_is_deleted_from_outside_while_it_is_waited_for_fails_the_step(world: World) -> None:
    async with world.running(world.context("sklearn")) as running:
        await world.applied("run-1")
        world.api.delete(world.path)
        error = await running.failure()

    assert "was deleted from outside" in str(error)
    assert world.ours() == []


async def test_readiness_of_the_specification_before_is_not_taken_for_that_of_the_new_one(world: World) -> None:
    await world.deploy(world.context("sklearn"))

    context = world.context("newer", run="run-2", created_at=2.0)
    async with world.running(context) as running:
        await world.applied("run-2")
        await world.until(lambda: any("not seen the new specification" in note for note in context.notes))
        assert not running.is_over
        await world.serves("run-2")
        await running.url()


async def test_a_failure_of_the_specification_before_is_not_taken_for_one_of_the_new(world: World) -> None:
    await world.deploy(world.context("sklearn"))
    world.says(FAILED)

    async with world.running(world.context("newer", run="run-2", created_at=2.0)) as running:
        await world.applied("run-2")
        await world.serves("run-2", conditions=READY[:1])
        await world.serves("run-2")
        await running.url()

    assert world.book.entries["app"].run == "run-2"


async def test_a_failure_that_nothing_contradicts_is_believed_after_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "SETTLE_S", 0.5)
    await world.deploy(world.context("sklearn"))
    world.says(FAILED)

    async with world.running(world.context("newer", run="run-2", created_at=2.0)) as running:
        error = await running.failure()

    assert "BlockedByFailedLoad" in str(error)


async def test_where_kserve_deploys_pods_itself_the_step_waits_for_the_last_of_the_model_before(
    world: World, node: object
) -> None:
    """The Deployment that KServe's controller would make is real, and so are its pods."""
    deployments = f"/apis/apps/v1/namespaces/{world.namespace}/deployments"
    world.api.create(deployments, deployment_of("run-1"))
    context = world.context("sklearn")
    async with world.running(context) as running:
        await world.serves("run-1", deploymentMode="Standard")
        await running.url()

    newer = world.context("newer", run="run-2", created_at=2.0)
    async with world.running(newer) as running:
        await world.serves("run-2", deploymentMode="Standard", observedGeneration=9)
        await world.until(lambda: any("has not updated the predictor yet" in note for note in newer.notes))
        assert not running.is_over
        world.api.patch(f"{deployments}/app-predictor", {"spec": deployment_of("run-2")["spec"]})
        await running.url()

    assert any("pods of the predictor" in note or "model before" in note for note in newer.notes)


async def test_a_cluster_that_lacks_what_kserve_wants_to_make_is_told(world: World) -> None:
    async with world.running(world.context("sklearn")) as running:
        await world.serves("run-1", deploymentMode="Knative", conditions=[])
        error = await running.failure()

    assert isinstance(error, StartError)
    assert "KServe wants a Service of serving.knative.dev/v1, which the cluster does not know" in str(error)


async def test_where_the_deployment_may_not_be_seen_kserves_own_word_has_to_do(
    api: Api, cluster: LocalCluster, namespace: str, object_store: ServiceAddress, tmp_path: Path
) -> None:
    """With the rights that operators are told to grant, without those about what KServe makes."""
    file = tmp_path / "kubeconfig"
    role.write_kubeconfig(file, role.grant(api, namespace), cluster.pki / "ca.crt", namespace, api.server)
    ours = {"", "serving.kserve.io"}
    rules = [rule for rule in role.documents()["Role"]["rules"] if set(rule["apiGroups"]) <= ours]
    api.patch(role.PATHS["Role"].format(namespace, "fusemld"), {"rules": rules})
    async with connect(Connection(kubeconfig=file), instance="i-limited") as limited:
        world = World(api, limited, object_store, tmp_path)
        context = world.context("onnx")
        async with world.running(context) as running:
            await world.serves("run-1", deploymentMode="Standard")
            await running.url()
        async with world.running(world.context("sklearn", run="run-2", created_at=2.0)) as running:
            await world.applied("run-2")
            world.says(FAILED)
            error = await running.failure()

    assert any("cannot see the pods' Deployment" in note for note in context.notes)
    assert isinstance(error, StartError)
    assert len(world.ours()) == 2, "those of the model that serves again"


async def test_a_model_is_served_in_another_cluster_with_the_credentials_of_its_record(
    world: World, api: Api, cluster: LocalCluster, namespace: str
) -> None:
    """The only API server there is stands for another one: no cluster is configured."""
    token = role.grant(api, namespace)
    credentials = {"token": token, "ca": (cluster.pki / "ca.crt").read_text(), "namespace": namespace}
    world.clusters = KubeClusters(None, instance=world.cluster.instance)
    world.kserve = access("kserve-api", api.server, credentials)

    context = world.context("sklearn")
    await world.deploy(context)

    application = world.book.entries["app"]
    assert application.cluster is not None
    assert (application.cluster.url, application.server) == (api.server, api.server)
    assert token not in "\n".join([*context.notes, repr(application)])


async def test_what_cannot_be_served_is_refused_before_anything_is_made(world: World) -> None:
    for model, words in (
        ("spark", "KServe has no engine for its flavours (spark)"),
        ("skops", "log it with mlflow.sklearn.log_model(..., serialization_format='cloudpickle')"),
        ("absent", "there is no such model in the object store"),
    ):
        async with world.running(world.context(model)) as running:
            assert words in str(await running.failure())

    context = world.context("sklearn")
    context.extensions["s3-storage"] = access("s3", world.store_url, world.keys)
    async with world.running(context) as running:
        assert "which pods cannot reach" in str(await running.failure())

    assert world.service() is None
    assert world.ours() == []
    assert remembered(world) == []


async def test_an_application_that_is_served_elsewhere_is_not_served_twice(world: World) -> None:
    local = Application(name="app", type="predictor", url="http://127.0.0.1:1/x", services=("predictor-app",))
    world.book.entries["app"] = local

    async with world.running(world.context("sklearn")) as running:
        error = await running.failure()

    assert isinstance(error, ConflictError)
    assert "it is served on this machine; delete the application there first" in str(error)


def spec(world: World) -> Json:
    service = world.service()
    assert service is not None
    found: Json = service["spec"]
    return found


def served(world: World) -> str:
    return str(spec(world)["predictor"]["model"]["storageUri"])


def remembered(world: World) -> list[str]:
    """Updates that are neither complete nor undone."""
    return [file.name for file in (world.work / "kserve").glob("*")]


def deployment_of(run: str) -> Json:
    labels = {"app": "isvc.app-predictor"}
    container = {"name": "kserve-container", "image": images.PAUSE, "imagePullPolicy": "IfNotPresent"}
    return {
        "metadata": {"name": "app-predictor"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels, "annotations": {"fusemld.io/run": run}},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
            },
        },
    }
