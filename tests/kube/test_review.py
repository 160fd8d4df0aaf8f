from __future__ import annotations

import base64
from pathlib import Path

import pytest

from fusemld.kube.connecting import Connection, connect, connect_to
from fusemld.kube.records import given
from fusemld.kube.review import Check, has_api, permitted

pytestmark = pytest.mark.cluster


async def test_an_administrator_may_do_everything(kubeconfig: Path) -> None:
    checks = [Check(verb="create", resource="pods", namespace="default"), Check(verb="get", resource="nodes")]
    async with connect(Connection(kubeconfig=kubeconfig), instance="test") as cluster:
        verdicts = await permitted(cluster, checks)

    assert [(verdict.check, verdict.is_allowed) for verdict in verdicts] == [(check, True) for check in checks]


async def test_a_service_account_may_do_what_its_role_says(kubeconfig: Path, namespace: str) -> None:
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    rule = {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]}
    authority = base64.b64encode((kubeconfig.parent / "ca.crt").read_bytes()).decode()
    checks = [
        Check(verb="get", resource="pods/log", namespace=namespace),
        Check(verb="create", resource="pods", namespace=namespace),
        Check(verb="list", resource="pods", namespace="default"),
        Check(verb="list", resource="inferenceservices", group="serving.kserve.io", namespace=namespace),
    ]
    async with connect(Connection(kubeconfig=kubeconfig), instance="test") as admin:
        await admin.create(account, {"metadata": {"name": "reader"}})
        await admin.create(f"{rbac}/roles", {"metadata": {"name": "reader"}, "rules": [rule]})
        subject = {"kind": "ServiceAccount", "name": "reader", "namespace": namespace}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
        binding = {"metadata": {"name": "reader"}, "subjects": [subject], "roleRef": role}
        await admin.create(f"{rbac}/rolebindings", binding)
        token = (await admin.create(f"{account}/reader/token", {"spec": {}}))["status"]["token"]
        reader = given(admin.name, {"token": token, "certificate-authority-data": authority}, "the test")

        async with connect_to(reader, Connection(), instance="test") as cluster:
            verdicts = await permitted(cluster, checks)

    assert [verdict.is_allowed for verdict in verdicts] == [True, False, False, False]
    assert str(checks[3]) == f"list inferenceservices.serving.kserve.io in {namespace}"


async def test_what_the_server_offers_is_found(kubeconfig: Path, inferenceservices: str) -> None:
    async with connect(Connection(kubeconfig=kubeconfig), instance="test") as cluster:
        assert await has_api(cluster, "", "v1", "Pod")
        assert await has_api(cluster, "serving.kserve.io", "v1beta1", "InferenceService")
        assert not await has_api(cluster, "serving.kserve.io", "v1beta1", "Absent")
        assert not await has_api(cluster, "absent.example", "v1", "Absent")
