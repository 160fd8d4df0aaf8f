"""A real daemon whose steps are pods of a real cluster, and what tests need beside it."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fusemld.executors.kubernetes import names
from fusemld.hooks.clusters import MANAGED_BY, MANAGER
from fusemld.model.run import AttemptKey
from tests.acceptance.daemon import Daemon
from tests.cluster import pki
from tests.cluster.api import Api, Json, PodHistory
from tests.cluster.images import BASE
from tests.cluster.local import LocalCluster
from tests.cluster.role import grant, write_kubeconfig

EXEC_VERSION = "client.authentication.k8s.io/v1"
CANARY = "canary-$(id)-5e1f0a77-value"
VAULT = f"""\
id: vault
product: vault
services:
  - id: main
    resource: vault
    auth_required: true
    configuration: {{VAULT_NAME: a public name}}
    endpoints: [{{url: "http://vault.example.org"}}]
    credentials: [{{id: one, configuration: {{VAULT_TOKEN: "{CANARY}"}}}}]
"""
"""A record whose credential is the canary."""


class PodDaemon:
    """A daemon that may do in its namespace what the example's Role says, and the pods that it makes there."""

    def __init__(self, daemon: Daemon, cluster: LocalCluster, namespace: str) -> None:
        self.daemon = daemon
        self.cluster = cluster
        self.api: Api = cluster.api
        self.namespace = namespace
        self.kubeconfig = daemon.base / "kubeconfig"
        self.history = PodHistory(self.api, namespace)
        self.token = grant(self.api, namespace)
        self.use_server(pki.SERVER)
        self.daemon.environment |= {
            "FUSEMLD_EXECUTOR": "kubernetes",
            "FUSEMLD_KUBERNETES_KUBECONFIG": str(self.kubeconfig),
            "FUSEMLD_KUBERNETES_NAMESPACE": namespace,
            "FUSEMLD_KUBERNETES_HELPER_IMAGE": BASE,
            "FUSEMLD_KUBERNETES_GIT_IMAGE": BASE,
            "FUSEMLD_KUBERNETES_IMAGE_PULL_POLICY": "Never",
            "FUSEMLD_STEPS_GRACE_S": "1",
        }

    def use_server(self, url: str) -> None:
        """From the next start of the daemon on."""
        write_kubeconfig(self.kubeconfig, self.token, self.cluster.pki / "ca.crt", self.namespace, url)

    def use_program(self, script: str) -> None:
        """From the next start of the daemon on: the credentials are what the script prints."""
        access = json.loads(self.kubeconfig.read_text())
        program = {"apiVersion": EXEC_VERSION, "command": "sh", "args": ["-c", script]}
        access["users"][0]["user"] = {"exec": program | {"interactiveMode": "Never"}}
        self.kubeconfig.write_text(json.dumps(access))

    def start(self, **settings: str) -> None:
        self.daemon.start(**settings)

    def finish(self, file: str, document: str, timeout_s: float = 60) -> dict[str, Any]:
        """Drop the workflow; its run once it is over."""
        self.daemon.drop(file, document)
        return self.daemon.finished(self.daemon.run_of(file), timeout_s)

    def begin(self, gate: Gate, document: str) -> str:
        """Drop a workflow whose step `only` comes to the gate; the run, once the daemon knows that it is there."""
        self.daemon.drop("long.yaml", document)
        run = self.daemon.run_of("long.yaml")
        gate.await_arrivals(1)
        self.daemon.in_state(run, "only", "running")
        return run

    # Its pods

    def objects(self, resource: str) -> list[Json]:
        """Of `pods`, `secrets`...: what a daemon made in the namespace and is still there."""
        selector = f"labelSelector={MANAGED_BY}%3D{MANAGER}"
        return self.api.items(f"/api/v1/namespaces/{self.namespace}/{resource}?{selector}")

    def pod(self, run: str, step: str) -> Json | None:
        """The pod of the step's latest attempt, as long as it is there."""
        of_step: dict[int, Json] = {}
        for pod in self.objects("pods"):
            key = names.attempt_of(pod)
            if key is not None and (key.run, key.step) == (run, step):
                of_step[key.attempt] = pod
        return of_step[max(of_step)] if of_step else None

    def pod_in_phase(self, run: str, step: str, phase: str, timeout_s: float = 30) -> Json:
        def found() -> Json | None:
            pod = self.pod(run, step)
            return pod if pod is not None and pod["status"]["phase"] == phase else None

        pod: Json = self.daemon.wait_for(found, timeout_s, f"a pod of {step} that is {phase}")
        return pod

    def delete_pod(self, pod: Json, grace_s: int | None = None) -> None:
        assert self.api.delete(f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}", grace_s)

    def attempts(self) -> Counter[AttemptKey]:
        """How many pods every attempt has ever had."""
        found: Counter[AttemptKey] = Counter()
        for lives in self.history.pods.values():
            for pod in lives.values():
                key = names.attempt_of(pod)
                assert key is not None, pod["metadata"]
                found[key] += 1
        return found

    def assert_one_pod_per_attempt(self) -> None:
        attempts = self.attempts()
        assert attempts
        assert set(attempts.values()) == {1}, attempts

    def assert_nothing_left(self, timeout_s: float = 20) -> None:
        """Codesets stay for later runs; everything of an attempt goes."""

        def left() -> list[str]:
            kinds = ("pods", "secrets")
            return [f"{kind} {thing['metadata']['name']}" for kind in kinds for thing in self.objects(kind)]

        self.daemon.wait_for(lambda: not left(), timeout_s, f"everything of the attempts to go: {left()}")


class Gate:
    """Where pods report that they run, and wait until they may go on."""

    def __init__(self, address: str) -> None:
        self._server = socket.create_server((address, 0), backlog=128)
        self.address, self.port = self._server.getsockname()[:2]
        self.arrived: list[str] = []
        """The host names of those who came, which are the names of their pods."""
        self._waiting: list[socket.socket] = []
        self._is_open = False
        self._word = f"go-{secrets.token_hex(4)}"
        self._lock = threading.Lock()
        threading.Thread(target=self._serve, name="gate", daemon=True).start()

    @property
    def wait(self) -> str:
        """A command of bash that comes back when the gate is opened."""
        place = f"/dev/tcp/{self.address}/{self.port}"
        refusal = 'echo "not the gate: $go" >&2; exit 1'
        return (
            f'exec 3<>{place}; echo "$HOSTNAME" >&3; read -r go <&3; [ "$go" = {self._word} ] || {{ {refusal}; }};'
        )

    def open(self) -> None:
        """For those who wait and those who come later."""
        with self._lock:
            self._is_open = True
            for connection in self._waiting:
                self._let_through(connection)
            self._waiting.clear()

    def await_arrivals(self, count: int, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while len(self.arrived) < count:
            assert time.monotonic() < deadline, f"{len(self.arrived)} of {count} pods came: {self.arrived}"
            time.sleep(0.05)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # closing alone leaves it listening as long as `accept` waits
        self._server.close()
        with self._lock:
            for connection in self._waiting:
                connection.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
                name = connection.makefile("rb").readline().decode().strip()
            except OSError:
                return
            with self._lock:
                self.arrived.append(name)
                if self._is_open:
                    self._let_through(connection)
                else:
                    self._waiting.append(connection)

    def _let_through(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # its pod may be gone
            connection.sendall(f"{self._word}\n".encode())


@contextmanager
def gate_on(cluster: LocalCluster) -> Iterator[Gate]:
    gate = Gate(cluster.address)
    try:
        yield gate
    finally:
        gate.close()


def bash(name: str, script: str, *more: str, image: str = BASE) -> str:
    """A step that runs a script; `more` are further lines of the step."""
    lines = [f"- name: {name}", f"  image: {image}", f"  command: [bash, -ec, {json.dumps(script)}]"]
    return "".join(f"  {line}\n" for line in (*lines, *(f"  {line}" for line in more)))


def workflow(name: str, *steps: str, outputs: str = "") -> str:
    return f"name: {name}\n" + (f"outputs: {outputs}\n" if outputs else "") + "steps:\n" + "".join(steps)


def attempts_of(run: dict[str, Any], step: str) -> list[dict[str, Any]]:
    (found,) = [entry["attempts"] for entry in run["steps"] if entry["name"] == step]
    return list(found)


def endings(run: dict[str, Any], step: str) -> list[str]:
    return [attempt["ending"] for attempt in attempts_of(run, step)]


def log(daemon: Daemon, run: str, step: str) -> str:
    return daemon.run("fuseml", "logs", run, step).stdout


def folder_codeset(daemon: Daemon, name: str, **files: str) -> Path:
    """Registered as `demo/NAME`."""
    folder = daemon.codesets / name
    folder.mkdir()
    for file, text in files.items():
        (folder / file).write_text(text)
    daemon.drop(f"codeset-{name}.yaml", f"name: {name}\nproject: demo\npath: {folder}\n")
    return folder
