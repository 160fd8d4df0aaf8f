from __future__ import annotations

from pathlib import Path

import pytest

from fusemld.kube import connecting
from fusemld.kube.config import KubeconfigFiles, ServiceAccountFolder
from fusemld.kube.connecting import Connection, connect
from fusemld.kube.review import Check, permitted, server_version
from fusemld.model.errors import StartError, UnavailableError
from tests.kube.conftest import Pems


@pytest.fixture
def pod_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a service account would be mounted."""
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    monkeypatch.setattr(connecting, "SERVICE_ACCOUNT", folder)
    return folder


IN_POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


@pytest.mark.parametrize(
    ("connection", "environ", "is_in_pod", "expected"),
    [
        (Connection(in_cluster=True), {}, False, "account"),
        (Connection(kubeconfig=Path("/etc/kube"), in_cluster=True), {}, False, "account"),
        (Connection(kubeconfig=Path("/etc/kube")), IN_POD, True, "/etc/kube"),
        (Connection(kubeconfig=Path("~/kube")), {}, False, str(Path.home() / "kube")),
        (Connection(), IN_POD | {"KUBECONFIG": "/a"}, True, "account"),
        (Connection(), {"KUBECONFIG": "/a"}, True, "/a"),
        (Connection(), IN_POD | {"KUBECONFIG": "/a:/b:"}, False, "/a:/b"),
        (Connection(), {"KUBECONFIG": ""}, False, str(Path.home() / ".kube/config")),
        (Connection(), {}, False, str(Path.home() / ".kube/config")),
    ],
)
def test_credentials_come_from_where_the_settings_say(
    pod_folder: Path, connection: Connection, environ: dict[str, str], is_in_pod: bool, expected: str
) -> None:
    if is_in_pod:
        (pod_folder / "token").write_text("x")

    found = connecting.source(connection, environ)

    if expected == "account":
        assert isinstance(found, ServiceAccountFolder)
    else:
        assert isinstance(found, KubeconfigFiles)
        assert found.where == expected


async def test_an_absent_kubeconfig_is_a_start_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=f"cannot read the kubeconfig {tmp_path}/absent: No such file"):
        async with connect(Connection(kubeconfig=tmp_path / "absent"), instance="test"):
            raise AssertionError("connected")


@pytest.mark.cluster
async def test_a_connection_knows_its_server_namespace_and_instance(kubeconfig: Path) -> None:
    async with connect(Connection(kubeconfig=kubeconfig), instance="mine") as cluster:
        assert (cluster.name, cluster.namespace, cluster.instance) == ("https://127.0.0.1:6443", "default", "mine")
        assert (await server_version(cluster)).startswith("v1.")

    async with connect(Connection(kubeconfig=kubeconfig, namespace="other"), instance="mine") as cluster:
        assert cluster.namespace == "other"


@pytest.mark.cluster
async def test_a_service_account_whose_token_was_replaced_goes_on(
    kubeconfig: Path, namespace: str, pod_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
    async with connect(Connection(kubeconfig=kubeconfig), instance="test") as admin:
        token = (await admin.create(path, {"spec": {}}))["status"]["token"]
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    (pod_folder / "ca.crt").write_bytes((kubeconfig.parent / "ca.crt").read_bytes())
    (pod_folder / "namespace").write_text(namespace)
    (pod_folder / "token").write_text("a.token.of-yesterday")

    async with connect(Connection(), instance="test") as cluster:
        (pod_folder / "token").write_text(token)
        verdicts = await permitted(cluster, [Check(verb="list", resource="pods", namespace=namespace)])

    assert cluster.namespace == namespace
    assert [verdict.is_allowed for verdict in verdicts] == [False]
    assert cluster.requests == {"create selfsubjectaccessreviews": 2}


@pytest.mark.cluster
async def test_a_server_of_another_authority_is_not_spoken_to(
    kubeconfig: Path, tmp_path: Path, pems: Pems
) -> None:
    text = kubeconfig.read_text().replace(str(kubeconfig.parent / "ca.crt"), str(pems.certificate))
    (tmp_path / "config").write_text(text)

    async with connect(Connection(kubeconfig=tmp_path / "config"), instance="test") as cluster:
        with pytest.raises(UnavailableError, match="certificate verify failed"):
            await cluster.create("/api/v1/namespaces", {})
