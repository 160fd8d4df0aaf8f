from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from fusemld.daemon.check_cluster import INSTALL, check, version_finding
from fusemld.daemon.findings import Finding, Level, fail
from fusemld.daemon.settings import SecretSettings, Settings, load_settings
from fusemld.executors.kubernetes.permissions import PERMISSIONS
from fusemld.kube import library
from fusemld.model.errors import StartError
from tests.cluster.api import Api
from tests.cluster.images import BASE
from tests.cluster.local import LocalCluster
from tests.cluster.role import PATHS, grant, write_kubeconfig

INSTANCES = "app.kubernetes.io/managed-by%3Dfusemld"


def settings(tmp_path: Path, **more: str) -> Settings:
    flags = {name.replace("__", "."): text for name, text in more.items()}
    return load_settings(flags={"state": str(tmp_path)} | flags, environ={}).settings


@pytest.fixture
def granted(cluster: LocalCluster, api: Api, namespace: str, tmp_path: Path) -> Settings:
    """Of a daemon that has exactly the example's Role in a namespace of its own."""
    kubeconfig = tmp_path / "kubeconfig"
    write_kubeconfig(kubeconfig, grant(api, namespace), cluster.pki / "ca.crt", namespace)
    return settings(
        tmp_path,
        executor="kubernetes",
        kubernetes__kubeconfig=str(kubeconfig),
        kubernetes__helper_image=BASE,
        kubernetes__git_image=BASE,
        kubernetes__image_pull_policy="Never",
    )


def with_cluster(found: Settings, **changes: object) -> Settings:
    return msgspec.structs.replace(found, kubernetes=msgspec.structs.replace(found.kubernetes, **changes))


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_without_a_cluster_in_the_settings_nothing_is_said_of_clusters(tmp_path: Path) -> None:
    assert check(settings(tmp_path)) == []


def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> None:
        raise StartError("cannot reach Kubernetes: No module named 'kubernetes_asyncio'")

    monkeypatch.setattr(library, "load", absent)

    (finding,) = check(settings(tmp_path, executor="kubernetes"))

    assert (finding.level, finding.remedy) == (Level.FAIL, INSTALL)


def test_a_program_that_has_no_credentials_is_quoted_and_ends_nothing(tmp_path: Path) -> None:
    """As a cloud's command does when nobody has logged in."""
    program = {"command": "sh", "args": ["-c", "echo nobody is logged in >&2; exit 1"]}
    program |= {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never"}
    access = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "it", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "it", "user": {"exec": program}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "current-context": "it",
    }
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(access))

    (finding,) = check(settings(tmp_path, executor="kubernetes", kubernetes__kubeconfig=str(file)))

    assert finding.level is Level.FAIL
    assert "nobody is logged in" in finding.message
    assert "kubectl" in finding.remedy


def test_a_kubeconfig_that_is_not_there_fails_only_where_pods_are_the_rule(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")

    (as_executor,) = check(settings(tmp_path, executor="kubernetes", kubernetes__kubeconfig=missing))
    (beside,) = check(settings(tmp_path, kubernetes__kubeconfig=missing))

    assert missing in as_executor.message
    assert (as_executor.level, beside.level) == (Level.FAIL, Level.WARN)


@pytest.mark.parametrize(
    ("version", "level"),
    [("v1.28.9", Level.FAIL), ("v1.29.0", Level.OK), ("v1.36.2+k3s1", Level.OK), ("v2.0.0", Level.OK)],
)
def test_kubernetes_before_1_29_is_too_old(version: str, level: Level) -> None:
    assert version_finding("https://x", version, fail).level is level


@pytest.mark.cluster
@pytest.mark.usefixtures("inferenceservices")
def test_the_example_s_role_is_all_that_is_needed(granted: Settings, api: Api, namespace: str) -> None:
    findings = by_name(check(granted))

    assert {name for name, found in findings.items() if found.level is not Level.OK} == {"helper images"}
    assert {"cluster", "rights for steps", "rights for models", "kserve", "pods"} <= set(findings)
    assert api.items(f"/api/v1/namespaces/{namespace}/pods") == []


@pytest.mark.cluster
def test_helper_images_that_were_not_tried_are_not_called_fine(granted: Settings) -> None:
    images = by_name(check(with_cluster(granted, helper_image="nowhere.invalid/x:1")))["helper images"]

    assert images.level is Level.UNKNOWN
    assert "nowhere.invalid/x:1" in images.message
    assert "--run-pod" in images.remedy


@pytest.mark.cluster
@pytest.mark.usefixtures("inferenceservices")
def test_every_right_that_is_refused_is_named(granted: Settings, api: Api, namespace: str) -> None:
    api.patch(PATHS["Role"].format(namespace, "fusemld"), {"rules": []})

    findings = by_name(check(granted))

    said = " ".join(found.message for found in findings.values())
    assert {each.kind for each in PERMISSIONS if each.kind not in said} == set()
    assert "create, get, list, watch, delete pods" in findings["rights for steps"].message
    assert findings["rights for steps"].level is Level.FAIL
    assert findings["rights for explanations"].level is Level.WARN
    assert f"--namespace {namespace}" in findings["rights for steps"].remedy
    assert "pods" not in findings


@pytest.mark.cluster
def test_secrets_that_records_may_name_are_asked_for_one_by_one(
    granted: Settings, api: Api, namespace: str
) -> None:
    rule = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mlflow"], "verbs": ["get"]}
    path = PATHS["Role"].format(namespace, "fusemld")
    api.patch(path, {"rules": [*api.get(path)["rules"], rule]})
    allowed = (f"{namespace}/mlflow", f"{namespace}/other", "*/mlflow")

    found = [
        (finding.level, finding.message)
        for finding in check(msgspec.structs.replace(granted, secrets=SecretSettings(secrets=allowed)))
        if finding.name == "rights for records"
    ]

    assert [level for level, _ in found] == [Level.OK, Level.WARN, Level.WARN]
    assert f"get secrets other in {namespace}" in found[1][1]


@pytest.mark.cluster
def test_a_policy_that_refuses_the_pods_of_steps_is_told_in_its_own_words(
    granted: Settings, api: Api, namespace: str
) -> None:
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    api.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": label}})

    pods = by_name(check(granted))["pods"]

    assert pods.level is Level.FAIL
    assert 'violates PodSecurity "restricted' in pods.message


@pytest.mark.cluster
def test_a_namespace_that_is_not_there_is_told(granted: Settings, kubeconfig: Path) -> None:
    found = by_name(check(with_cluster(granted, kubeconfig=kubeconfig, namespace="fusemld-nowhere")))

    assert found["pods"].remedy == "kubectl create namespace fusemld-nowhere"


@pytest.mark.cluster
@pytest.mark.usefixtures("node")
def test_the_helper_images_are_tried_in_a_pod_that_is_gone_afterwards(
    granted: Settings, api: Api, namespace: str
) -> None:
    good = by_name(check(granted, run_pod=True))["helper images"]
    bad = by_name(check(with_cluster(granted, helper_image="nowhere.invalid/x:1"), run_pod=True))["helper images"]

    assert good.level is Level.OK
    assert "git version" in good.message
    assert bad.level is Level.FAIL
    assert "nowhere.invalid/x:1" in bad.message
    assert api.items(f"/api/v1/namespaces/{namespace}/pods?labelSelector={INSTANCES}") == []


@pytest.mark.cluster
def test_a_token_that_is_refused_is_told(granted: Settings, cluster: LocalCluster, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "wrong"
    write_kubeconfig(kubeconfig, "not-a-token", cluster.pki / "ca.crt", "default")

    (finding,) = check(with_cluster(granted, kubeconfig=kubeconfig))

    assert finding.level is Level.FAIL
    assert "nauthorized" in finding.message
