"""The cluster for every test that is marked `cluster`; loaded by the conftest at the project's root.

Where there is no control plane such tests are skipped, or fail with `REQUIRED` in the environment. A cluster that
cannot be started fails them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.api import Api, ApiError
from tests.cluster.local import ASSETS, LocalCluster, assets, has_control_plane
from tests.cluster.programs import wait_for
from tests.cluster.role import grant, write_kubeconfig

REQUIRED = "FUSEMLD_TEST_CLUSTER_REQUIRED"
CRDS = Path(__file__).parent / "crds"
INFERENCE_SERVICES = "inferenceservices.serving.kserve.io"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if has_control_plane():
        return
    for item in items:
        if item.get_closest_marker("cluster") and not os.environ.get(REQUIRED):
            item.add_marker(pytest.mark.skip(reason=f"no Kubernetes control plane in ${ASSETS} ({assets()})"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    """A control plane that is ready. What was started for the session is stopped at its end."""
    made = LocalCluster()
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def node(cluster: LocalCluster) -> LocalCluster:
    """The cluster with a node that runs pods of the images in `tests.cluster.images`."""
    cluster.start_node()
    return cluster


@pytest.fixture
def kubeconfig(cluster: LocalCluster) -> Path:
    """Of somebody who may do everything."""
    return cluster.kubeconfig


@pytest.fixture
def api(cluster: LocalCluster) -> Api:
    return cluster.api


@pytest.fixture
def namespace(api: Api) -> Iterator[str]:
    """A fresh namespace in which pods can be created at once."""
    name = f"fusemld-test-{secrets.token_hex(4)}"
    create_namespace(api, name)
    try:
        yield name
    finally:
        delete_namespace(api, name)


@pytest.fixture
def role_kubeconfig(
    cluster: LocalCluster, api: Api, namespace: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Of somebody who may do in the namespace exactly what the example's Role says: of what acts for a daemon."""
    file = tmp_path_factory.mktemp("role") / "kubeconfig"
    write_kubeconfig(file, grant(api, namespace), cluster.pki / "ca.crt", namespace, api.server)
    return file


def create_namespace(api: Api, name: str) -> None:
    api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    try:
        api.create(f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "default"}})
    except ApiError as error:
        if error.code != 409:  # the controller manager was faster
            raise


def delete_namespace(api: Api, name: str) -> None:
    """Its pods are gone afterwards; the rest follows by itself."""
    pods = f"/api/v1/namespaces/{name}/pods"
    for pod in api.items(pods):
        api.delete(f"{pods}/{pod['metadata']['name']}", grace_s=0)
    api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def inferenceservices(cluster: LocalCluster) -> str:
    """KServe's own definition is installed; the name of its resource."""
    ensure_definition(cluster.api, INFERENCE_SERVICES, CRDS / "inferenceservices.yaml")
    return INFERENCE_SERVICES


def ensure_definition(api: Api, name: str, file: Path) -> None:
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
    if api.find(path) is None:
        api.apply(path, file.read_bytes())

    def is_served() -> bool:
        definition = api.get(path)
        conditions = definition.get("status", {}).get("conditions") or []
        if not any(entry["type"] == "Established" and entry["status"] == "True" for entry in conditions):
            return False
        spec = definition["spec"]
        try:
            for version in spec["versions"]:
                if version["served"]:
                    api.get(f"/apis/{spec['group']}/{version['name']}/{spec['names']['plural']}?limit=1")
        except ApiError as error:
            if error.code in (404, 429):  # 429: its storage is being set up
                return False
            raise
        return True

    wait_for(is_served, 30, f"the definition {name} to be served")
