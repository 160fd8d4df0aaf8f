"""Serving a model on a cluster: against a real API server with KServe's definition, and a real object store."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import pytest

from fusemld.hooks.clusters import IN_CLUSTER_URL, INSTANCE
from fusemld.kube.clusters import KubeClusters
from fusemld.model.application import Application
from fusemld.model.errors import ConflictError
from tests.cluster import role
from tests.cluster.api import Api
from tests.cluster.local import LocalCluster
from tests.cluster.serving import BUCKET, KEYS, URL, ClusterWorld, access, remembered, served

pytestmark = [pytest.mark.cluster, pytest.mark.services, pytest.mark.usefixtures("inferenceservices")]


async def test_a_model_becomes_an_inference_service_with_access_to_its_store_and_the_url_follows(
    world: ClusterWorld,
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


async def test_the_layout_an_engine_wants_is_made_inside_the_store_once(world: ClusterWorld) -> None:
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


async def test_a_model_is_served_in_another_cluster_with_the_credentials_of_its_record(
    world: ClusterWorld, api: Api, cluster: LocalCluster, namespace: str
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


async def test_what_cannot_be_served_is_refused_before_anything_is_made(world: ClusterWorld) -> None:
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


async def test_an_application_that_is_served_elsewhere_is_not_served_twice(world: ClusterWorld) -> None:
    local = Application(name="app", type="predictor", url="http://127.0.0.1:1/x", services=("predictor-app",))
    world.book.entries["app"] = local

    async with world.running(world.context("sklearn")) as running:
        error = await running.failure()

    assert isinstance(error, ConflictError)
    assert "it is served on this machine; delete the application there first" in str(error)


@pytest.mark.parametrize("labels", [{}, {INSTANCE: "i-somebody-else"}])
async def test_a_service_of_somebody_else_is_never_touched(world: ClusterWorld, labels: Mapping[str, str]) -> None:
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
