"""A model that a pod has trained and stored becomes an InferenceService; the tests play KServe's controller."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusemld.hooks.building import build_environment
from fusemld.hooks.environments import EnvironmentSpec
from tests.acceptance.object_store import UPLOAD, ObjectStore, object_store, runtime_folders
from tests.acceptance.pods import PodDaemon, folder_codeset, log
from tests.cluster.api import Json
from tests.cluster.images import PYTHON, RELEASE
from tests.cluster.local import LocalCluster
from tests.cluster.packages import UnpackedPackages
from tests.cluster.serving import predictor_deployment

pytestmark = [pytest.mark.acceptance, pytest.mark.cluster, pytest.mark.services, pytest.mark.timeout(600)]

SCIKIT_LEARN = EnvironmentSpec(
    label="the trainer",
    requirements="mlflow-skinny==3.17.2\nscikit-learn==1.7.2\nskops==0.16.0\npandas\n",
    python=PYTHON,
)
TRAINER = f"localhost/trainer:{SCIKIT_LEARN.key}"
TRAIN = """\
import sys
import mlflow.sklearn
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

model = LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True))
mlflow.sklearn.save_model(model, sys.argv[1], serialization_format="cloudpickle")
"""
PREDICT = """\
import pickle, sys
from sklearn.datasets import load_iris

with open(sys.argv[1], "rb") as file:
    print(pickle.load(file).score(*load_iris(return_X_y=True)))
"""

WORKFLOW = f"""\
name: serve
inputs: [{{name: code, type: codeset}}]
outputs: [{{name: prediction-url}}]
steps:
  - name: trainer
    image: {TRAINER}
    command: [bash, -ec]
    args:
      - |
        python3 train.py model
        python3 upload.py model s3://models/$FUSEML_ENV_RUN_ID/model
        echo s3://models/$FUSEML_ENV_RUN_ID/model > /tekton/results/model
    inputs: [{{name: code, codeset: {{name: "{{{{ inputs.code }}}}", path: /project}}}}]
    extensions: [{{name: s3-storage, service_resource: s3}}]
    outputs: [{{name: model}}]
  - name: predictor
    image: ghcr.io/fuseml/kserve-predictor:latest
    inputs:
      - {{name: model, value: "{{{{ steps.trainer.outputs.model }}}}"}}
      - {{name: predictor, value: auto}}
      - {{name: app_name, value: iris}}
      - {{name: resources, value: '{{"cpu": "100m"}}'}}
    outputs: [{{name: prediction-url}}]
    extensions:
      - {{name: s3-storage, service_resource: s3}}
      - {{name: kserve, service_resource: kserve-api}}
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that can train and load models."""
    folders = runtime_folders(tmp_path_factory.mktemp("runtime"))
    return build_environment(SCIKIT_LEARN, folders, lambda _: None) / "bin" / "python"


@pytest.fixture
def trainer(node: LocalCluster, python: Path) -> None:
    """The node has an image with a whole Python and the same packages."""
    debian = UnpackedPackages(node.folder / "trainer", RELEASE)
    debian.add(f"libpython{PYTHON}-stdlib")
    packages = python.parents[1] / f"lib/python{PYTHON}/site-packages"
    node.add_image(TRAINER, {".": debian.root, f"usr/local/lib/python{PYTHON}/dist-packages": packages})


@pytest.fixture
def store(tmp_path: Path, node: LocalCluster) -> Iterator[ObjectStore]:
    with object_store(tmp_path, node.address) as made:
        yield made


class KServe:
    """What KServe's controller makes of the services of one namespace in its mode `Standard`, and writes into
    their status."""

    def __init__(self, pods: PodDaemon) -> None:
        self._api = pods.api
        self._collection = f"/apis/serving.kserve.io/v1beta1/namespaces/{pods.namespace}/inferenceservices"

    def services(self) -> list[Json]:
        return self._api.items(self._collection)

    def tell(self, service: Json, ready: str, reason: str = "", message: str = "") -> str:
        """Of what is there now; the service's URL. The generation that is observed is that of the Deployment."""
        name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
        deployment = self._deployment(name, namespace, service["metadata"]["annotations"])
        url = f"http://{name}.{namespace}.example.org"
        condition = {"status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}
        if reason:
            condition |= {"reason": reason, "message": message}
        status: dict[str, Any] = {
            "deploymentMode": "Standard",
            "observedGeneration": deployment["metadata"]["generation"],
            "conditions": [{"type": kind, **condition} for kind in ("PredictorReady", "IngressReady", "Ready")],
        }
        if ready == "True":
            status |= {"url": url, "components": {"predictor": {"url": url}}}
        self._api.patch(f"{self._collection}/{name}/status", {"status": status})
        return url

    def _deployment(self, name: str, namespace: str, annotations: dict[str, str]) -> Json:
        collection = f"/apis/apps/v1/namespaces/{namespace}/deployments"
        found = self._api.find(f"{collection}/{name}-predictor")
        return found or self._api.create(collection, predictor_deployment(name, annotations))


@pytest.mark.usefixtures("inferenceservices", "trainer")
def test_a_model_that_a_pod_has_trained_and_stored_is_served_and_its_address_follows(
    pods: PodDaemon, store: ObjectStore, python: Path
) -> None:
    daemon = pods.daemon
    folder_codeset(daemon, "iris", **{"train.py": TRAIN, "upload.py": UPLOAD})
    daemon.drop("store.yaml", store.record)
    daemon.drop("serve.yaml", WORKFLOW)
    daemon.drop("run.yaml", "workflow: serve\ninputs: {code: demo/iris}\n")
    kserve = KServe(pods)
    pods.start()
    run = daemon.run_of("run.yaml")

    (service,) = daemon.wait_for(kserve.services, 60, "the InferenceService")
    kserve.tell(service, "False", "RevisionMissing", "the image is being fetched")
    daemon.wait_for(lambda: "the image is being fetched" in log(daemon, run, "predictor"), 20, "KServe's words")
    daemon.kill()
    pods.start()
    assert daemon.json("get", run)["state"] == "running"
    (service,) = kserve.services()
    url = kserve.tell(service, "True")
    view = daemon.finished(run)

    assert view["state"] == "succeeded", daemon.run("fuseml", "why", run).stdout
    assert view["outputs"]["prediction-url"].startswith(f"{url}/v2/models/")
    assert view["outputs"]["prediction-url"].endswith("/infer")
    model = service["spec"]["predictor"]["model"]
    assert model["modelFormat"]["name"] == "sklearn"
    assert model["resources"]["requests"] == {"cpu": "100m"}
    stored = store.folder / model["storageUri"].removeprefix("s3://")
    score = subprocess.run([python, "-c", PREDICT, stored / "model.pkl"], check=True, capture_output=True)
    assert float(score.stdout) > 0.9

    (application,) = daemon.json("application", "list")
    assert application["name"] == "iris"
    assert application["url"] == view["outputs"]["prediction-url"]
    foreign = f"/api/v1/namespaces/{pods.namespace}/secrets"
    pods.api.create(foreign, {"metadata": {"name": "iris"}, "stringData": {"of": "somebody else"}})
    daemon.run("fuseml", "application", "delete", "iris")
    assert not kserve.services()
    assert not pods.objects("secrets")
    assert not pods.objects("serviceaccounts")
    assert pods.api.find(f"{foreign}/iris") is not None
    assert daemon.json("application", "list") == []
    pods.assert_nothing_left()
