"""A namespace in which models are served, for the tests of the predictor on a cluster.

The API server, KServe's definition and the object store are real; the tests write the statuses that KServe's
controller would.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread
from fusemld_kserve.manifests import RUN
from fusemld_kserve.predictor import KServePredictor
from fusemld_s3.store import S3StoreFactory

from fusemld.hooks.clusters import IN_CLUSTER_URL, INSTANCE, Cluster, Json
from fusemld.hooks.services import ServiceAddress
from fusemld.hooks.stores import ObjectStore
from fusemld.kube.clusters import KubeClusters
from fusemld.model.application import Application
from fusemld.model.errors import ConflictError, FusemldError
from fusemld.model.extension import ResolvedService, ServiceAccess
from fusemld.model.run import AttemptKey
from tests.cluster.api import Api
from tests.cluster.images import PAUSE

KEYS = {"access_key": "test-access-key-0001", "secret_key": "test-secret-key-0001"}
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


def predictor_deployment(service: str, annotations: Mapping[str, str]) -> Json:
    """What KServe's controller makes of an InferenceService in its mode `Standard`: it hands the annotations on.
    The model is not served; the pod is real."""
    labels = {"app": f"isvc.{service}-predictor"}
    container = {"name": "kserve-container", "image": PAUSE, "imagePullPolicy": "IfNotPresent"}
    return {
        "metadata": {"name": f"{service}-predictor"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels, "annotations": dict(annotations)},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
            },
        },
    }


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


class ClusterContext:
    """What a step of the run sees; `is_killed` and `notes` are the test's."""

    executor = "kubernetes"
    workflow = "mlflow-e2e"
    project = "default"
    codesets: Mapping[str, Any] = {}
    outputs = ("prediction-url",)

    def __init__(self, world: ClusterWorld, run: str, created_at: float, inputs: Mapping[str, str]) -> None:
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

    async def run(self, step: KServePredictor, context: ClusterContext) -> None:
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


class ClusterWorld:
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

    def context(self, model: str, run: str = "run-1", created_at: float = 1.0, **inputs: str) -> ClusterContext:
        return ClusterContext(self, run, created_at, {"model": f"s3://{BUCKET}/{model}", **inputs})

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
        """KServe's controller has the service of the run ready, in its mode `Standard`."""
        await self.applied(run)
        self._rolled_out(run)
        self.calls_ready(**status)

    def calls_ready(self, **status: Any) -> None:
        """KServe's controller does, whatever is behind it."""
        self.says(
            {
                "deploymentMode": "Standard",
                "observedGeneration": 9,
                "conditions": READY,
                "url": URL,
                "modelStatus": None,
                **status,
            }
        )

    def _rolled_out(self, run: str) -> None:
        """The Deployment runs the model of the run; where there is no node, its status is written here, too."""
        collection = f"/apis/apps/v1/namespaces/{self.namespace}/deployments"
        path = f"{collection}/app-predictor"
        wanted = predictor_deployment("app", {RUN: run})
        made = (
            self.api.patch(path, {"spec": wanted["spec"]})
            if self.api.find(path)
            else self.api.create(collection, wanted)
        )
        counts = dict.fromkeys(("replicas", "readyReplicas", "updatedReplicas", "availableReplicas"), 1)
        self.api.patch(
            f"{path}/status", {"status": {"observedGeneration": made["metadata"]["generation"], **counts}}
        )

    async def deploy(self, context: ClusterContext) -> str:
        """The prediction URL, with a controller that has everything ready at once."""
        async with self.running(context) as running:
            await self.serves(context.key.run)
            return await running.url()

    @asynccontextmanager
    async def running(self, context: ClusterContext) -> AsyncIterator[Running]:
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


def spec(world: ClusterWorld) -> Json:
    service = world.service()
    assert service is not None
    found: Json = service["spec"]
    return found


def served(world: ClusterWorld) -> str:
    return str(spec(world)["predictor"]["model"]["storageUri"])


def remembered(world: ClusterWorld) -> list[str]:
    """Updates that are neither complete nor undone."""
    return [file.name for file in (world.work / "kserve").glob("*")]
