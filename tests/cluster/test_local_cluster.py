"""The cluster of the tests does what the tests of other rooms take for granted."""

from __future__ import annotations

import pytest

from tests.cluster.api import Api, ApiError
from tests.cluster.images import BASE
from tests.cluster.local import LocalCluster
from tests.cluster.programs import wait_for

pytestmark = pytest.mark.cluster


def test_a_pod_runs_on_the_node_in_a_fresh_namespace(node: LocalCluster, api: Api, namespace: str) -> None:
    pods = f"/api/v1/namespaces/{namespace}/pods"
    container = {"name": "main", "image": BASE, "imagePullPolicy": "Never", "command": ["git", "--version"]}
    api.create(pods, {"metadata": {"name": "one"}, "spec": {"restartPolicy": "Never", "containers": [container]}})

    wait_for(lambda: api.get(f"{pods}/one")["status"]["phase"] == "Succeeded", 60, "the pod to end")

    assert api.call("GET", f"{pods}/one/log").startswith(b"git version")


def test_a_node_whose_kubelet_has_ended_is_ready_when_a_new_one_says_so(node: LocalCluster) -> None:
    node.kill_kubelet()

    node.wait_for_node()

    assert node.programs.process("kubelet") is not None


def test_inference_services_are_validated_by_their_real_definition(
    api: Api, namespace: str, inferenceservices: str
) -> None:
    path = f"/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices?fieldValidation=Strict"
    kind = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "one"}}

    with pytest.raises(ApiError, match=r"unknown field.*modelFormt"):
        api.create(path, {**kind, "spec": {"predictor": {"model": {"modelFormt": {"name": "sklearn"}}}}})


def test_compaction_makes_etcd_forget(cluster: LocalCluster) -> None:
    assert cluster.compact() > 0
