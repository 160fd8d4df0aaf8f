"""The daemon itself in a pod, as `examples/kubernetes/daemon.yaml` runs it with the rights of `role.yaml`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.daemon import BIN, EXAMPLES
from tests.cluster.api import Api, ApiError, Json
from tests.cluster.images import BASE
from tests.cluster.local import LocalCluster
from tests.cluster.role import grant

pytestmark = [pytest.mark.cluster, pytest.mark.acceptance]

PROJECT = Path(__file__).parents[2]
PATHS = {
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
}
WORKFLOW = f"""\
name: inside
outputs: [{{name: said}}]
steps:
  - name: only
    image: {BASE}
    command: [sh, -c, 'printf "hello from %s" "$FUSEML_ENV_WORKFLOW_NAME" > /tekton/results/said']
    outputs: [{{name: said}}]
"""


class DeployedDaemon:
    """The example with what this node has: an image without Python's libraries, so those of the host and this
    project are mounted into it, and folders of the host in the place of volumes."""

    def __init__(self, api: Api, namespace: str, base: Path) -> None:
        self.api = api
        self.namespace = namespace
        self.state = base / "state"
        self.run = base / "run"
        for folder in (self.state, self.run):
            folder.mkdir()
        for document in yaml.safe_load_all((EXAMPLES / "kubernetes/daemon.yaml").read_text()):
            if document["kind"] == "PersistentVolumeClaim":
                continue
            if document["kind"] == "ConfigMap":
                self._add_images(document)
            else:
                self._move(document["spec"]["template"]["spec"])
            api.create(PATHS[document["kind"]].format(namespace), document)

    def _add_images(self, config: Json) -> None:
        images = f'helper_image = "{BASE}"\nimage_pull_policy = "Never"\n'
        config["data"]["config.toml"] = config["data"]["config.toml"].replace(
            "[kubernetes]\n", f"[kubernetes]\n{images}"
        )

    def _move(self, pod: Json) -> None:
        (container,) = pod["containers"]
        container |= {"image": BASE, "imagePullPolicy": "Never"}
        container["env"].append({"name": "PATH", "value": f"{BIN}:/usr/bin:/bin"})
        folders = {"state": self.state, "run": self.run}
        volumes = [volume for volume in pod["volumes"] if volume["name"] not in folders]
        volumes += [{"name": name, "hostPath": {"path": str(folder)}} for name, folder in folders.items()]
        for number, place in enumerate(("/usr", sys.base_prefix, str(PROJECT))):
            volumes.append({"name": f"host-{number}", "hostPath": {"path": place}})
            container["volumeMounts"].append({"name": f"host-{number}", "mountPath": place, "readOnly": True})
        pod["volumes"] = volumes
        # The folders of the host belong to whoever runs the tests.
        pod["securityContext"] = {"runAsUser": os.getuid()}

    def fuseml(self, *arguments: str) -> Any:
        """None while nobody answers."""
        done = subprocess.run(
            [BIN / "fuseml", *arguments, "-o", "json"],
            env=os.environ | {"FUSEMLD_SOCKET": str(self.run / "fusemld.sock")},
            capture_output=True,
            check=False,
        )
        return json.loads(done.stdout) if done.returncode == 0 else None

    def wait_for(self, condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (found := condition()):
            assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}\n{self.logs()}"
            time.sleep(0.2)
        return found

    def pods(self) -> list[Json]:
        return self.api.items(f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=app%3Dfusemld")

    def logs(self) -> str:
        said = []
        for pod in self.pods():
            path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}/log"
            try:
                said.append(self.api.call("GET", path).decode())
            except ApiError as error:
                said.append(f"{error}\n{pod['status']}")
        return "\n".join(said)

    def close(self) -> None:
        deployments = PATHS["Deployment"].format(self.namespace)
        self.api.delete(f"{deployments}/fusemld")
        self.wait_for(lambda: not self.pods(), 60, "the daemon's pod to go")


@pytest.fixture
def deployed(node: LocalCluster, namespace: str) -> Iterator[DeployedDaemon]:
    base = Path(tempfile.mkdtemp(prefix="fusemld-"))
    grant(node.api, namespace)
    made = DeployedDaemon(node.api, namespace, base)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(base)


def test_a_daemon_in_the_cluster_runs_workflows_there_and_goes_on_after_its_pod_is_deleted(
    deployed: DeployedDaemon, api: Api, namespace: str
) -> None:
    deployed.wait_for(lambda: deployed.fuseml("runs") is not None, 90, "the daemon to answer")
    inbox = deployed.state / "inbox"

    (inbox / "inside.yaml").write_text(WORKFLOW)
    first = deployed.wait_for(lambda: _over(deployed, 1), 90, "the run to end")
    (pod,) = deployed.pods()
    api.delete(f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}", grace_s=0)
    (inbox / "again.yaml").write_text("workflow: inside\ninputs: {}\n")
    second = deployed.wait_for(lambda: _over(deployed, 2), 120, "the second run to end")

    for run in (first[0]["id"], second[0]["id"]):
        found = deployed.fuseml("get", run)
        assert (found["state"], found["outputs"]) == ("succeeded", {"said": "hello from inside"})
    assert first[0]["id"] != second[0]["id"]


def _over(deployed: DeployedDaemon, count: int) -> list[dict[str, Any]] | None:
    runs = deployed.fuseml("runs")
    is_over = runs is not None and len(runs) == count and all(run["state"] != "running" for run in runs)
    return list(runs) if is_over else None
