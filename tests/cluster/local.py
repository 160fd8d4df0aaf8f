"""A Kubernetes cluster on this machine for tests, which stop its parts, bring them back, and leave it as it was.

State is in `$TESTCLUSTER_DIR` (`/var/lib/testcluster`); what runs there already is used as it is, and a cluster
of which nothing runs begins anew. It needs root, Debian, and in `$KUBEBUILDER_ASSETS`
(`/usr/local/kubebuilder/bin`) kube-apiserver, kube-controller-manager, kube-scheduler, and for the node kubelet
and kube-proxy.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.cluster import pki
from tests.cluster.api import Api
from tests.cluster.node import NodePrograms
from tests.cluster.packages import UnpackedPackages, install
from tests.cluster.programs import STOP_S, ClusterError, Programs, wait_for

ASSETS = "KUBEBUILDER_ASSETS"
DEFAULT_ASSETS = "/usr/local/kubebuilder/bin"
STATE = "TESTCLUSTER_DIR"
DEFAULT_STATE = "/var/lib/testcluster"
ETCD = "http://127.0.0.1:2379"
STOP_ORDER = ("proxy", "kubelet", "scheduler", "controller-manager", "apiserver", "containerd", "etcd")


def assets() -> Path:
    return Path(os.environ.get(ASSETS) or DEFAULT_ASSETS)


def has_control_plane() -> bool:
    return (assets() / "kube-apiserver").exists()


class LocalCluster:
    def __init__(self) -> None:
        self.folder = Path(os.environ.get(STATE) or DEFAULT_STATE)
        self.assets = assets()
        self.programs = Programs(self.folder)
        self.pki = self.folder / "pki"
        self.kubeconfig = self.pki / "admin.kubeconfig"
        self.node_name = socket.gethostname()
        self._packages = UnpackedPackages(self.folder / "deb")
        self._node = NodePrograms(self.folder, self.assets, self.programs, self._packages)
        self._before = frozenset(name for name in STOP_ORDER if self.programs.process(name) is not None)

    # As a whole

    def start(self) -> None:
        """etcd, API server, controller manager, scheduler. Raises `ClusterError`."""
        self._needs("kube-apiserver", "kube-controller-manager", "kube-scheduler")
        if self.programs.process("etcd") is None:
            self._forget()
        self._packages.add("etcd-server")
        install({"openssl": "openssl"}, self.folder / "log/apt.log")
        pki.create(self.pki, self.address, self.node_name)
        data = self.folder / "data/etcd"
        data.parent.mkdir(exist_ok=True)
        self._start(
            "etcd", self._packages.program("etcd"), f"--data-dir={data}", "--unsafe-no-fsync",
            f"--listen-client-urls={ETCD}", f"--advertise-client-urls={ETCD}",
            "--listen-peer-urls=http://127.0.0.1:2380",
        )  # fmt: skip
        self.start_api_server()
        self._start(
            "controller-manager", self.assets / "kube-controller-manager",
            f"--kubeconfig={self.pki / 'controller-manager.kubeconfig'}", "--leader-elect=false",
            f"--service-account-private-key-file={self.pki}/sa.key", f"--root-ca-file={self.pki}/ca.crt",
            "--use-service-account-credentials=true", "--node-monitor-grace-period=30s",
        )  # fmt: skip
        self._start(
            "scheduler", self.assets / "kube-scheduler", f"--kubeconfig={self.pki / 'scheduler.kubeconfig'}",
            "--leader-elect=false",
        )  # fmt: skip

    def start_node(self) -> None:
        """The node, with the images of `images`, or what of it does not run; it is ready afterwards."""
        self._needs("kubelet", "kube-proxy")
        self._node.start(self.address, self._environment())
        self.wait_for_node()

    def stop(self, *, everything: bool = False) -> None:
        """What did not run when this object was made, or `everything`. Downloads, certificates and images stay."""
        ours = [name for name in STOP_ORDER if everything or name not in self._before]
        for name in ours:
            if name == "containerd":
                self._node.stop_containers()
            # API server and etcd end gracefully only after a minute, and never without each other.
            if name in ("apiserver", "etcd"):
                self.programs.kill(name)
            else:
                self.programs.stop(name)
        if "containerd" in ours:
            self._node.clean_up()

    # Its parts

    @property
    def api(self) -> Api:
        return Api(pki.SERVER, self.pki)

    @property
    def address(self) -> str:
        """The host's own address: what pods reach it by."""
        return subprocess.check_output(["hostname", "-I"], text=True).split()[0]

    def start_api_server(self) -> None:
        """Returns when it is ready."""
        self._start(
            "apiserver", self.assets / "kube-apiserver", f"--etcd-servers={ETCD}", f"--secure-port={pki.PORT}",
            f"--advertise-address={self.address}", "--allow-privileged=true", "--authorization-mode=Node,RBAC",
            f"--tls-cert-file={self.pki}/apiserver.crt", f"--tls-private-key-file={self.pki}/apiserver.key",
            f"--client-ca-file={self.pki}/ca.crt", f"--service-account-key-file={self.pki}/sa.pub",
            f"--service-account-signing-key-file={self.pki}/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--kubelet-client-certificate={self.pki}/admin.crt", f"--kubelet-client-key={self.pki}/admin.key",
        )  # fmt: skip

        def is_ready() -> bool:
            self.programs.check("apiserver")
            return self.api.is_ready()

        wait_for(is_ready, 90, "the API server to be ready")

    def kill_api_server(self) -> None:
        """As `kill -9` does; nobody listens afterwards."""
        self.programs.kill("apiserver")
        # Its threads may outlive it by a moment, and its socket with them.
        wait_for(_nobody_listens, STOP_S, f"port {pki.PORT} to be free")

    def end_outage(self) -> None:
        """Start the API server again, and with it those of the cluster's own parts that wait longer and longer
        before they look for it. The node is ready afterwards."""
        for name in ("controller-manager", "scheduler", "kubelet"):
            self.programs.kill(name)
        self.start()
        self.start_node()

    def image(self, name: str) -> AbstractContextManager[Callable[[], object]]:
        """A name for the base image, from when what is given is called until the end of the block."""
        return self._node.image(name)

    def add_image(self, name: str, content: Mapping[str, Path]) -> None:
        """The base image with folders of the host at these paths in it; it stays on the node."""
        self._node.add_image(name, content)

    def kill_kubelet(self) -> None:
        """The node falls silent; what runs on it goes on running."""
        self.programs.kill("kubelet")

    def wait_for_node(self, timeout_s: float = 120) -> None:
        """For what the kubelet that runs now says of it, not for what one before it has said. One that ends is
        started again, as the host of a node would."""

        def is_ready() -> bool:
            self._node.start_kubelet(self.address, self._environment())
            node = self.api.find(f"/api/v1/nodes/{self.node_name}")
            return node is not None and not node["spec"].get("taints") and self._is_well(node)

        try:
            wait_for(is_ready, timeout_s, "the node to be ready")
        except ClusterError as error:
            raise ClusterError(f"{error}\n{self.programs.last_words('kubelet', 20)}") from error

    def _is_well(self, node: dict[str, Any]) -> bool:
        kubelet = self.programs.process("kubelet")
        ready = next((entry for entry in node["status"].get("conditions", []) if entry["type"] == "Ready"), None)
        if kubelet is None or ready is None or ready["status"] != "True":
            return False
        said = datetime.fromisoformat(ready["lastHeartbeatTime"]).timestamp()
        return said >= int(kubelet.create_time())

    def compact(self) -> int:
        """Make etcd forget everything up to now, which is later than what anybody has seen; that revision."""
        written = _etcd("put", {"key": _encoded("/tests/compacted"), "value": ""})
        revision = int(written["header"]["revision"])
        _etcd("compaction", {"revision": str(revision), "physical": True})
        return revision

    def _forget(self) -> None:
        """What an earlier cluster has left, also one that was killed; not what takes minutes to get."""
        for name in STOP_ORDER:
            self.programs.kill(name)
        self._node.clean_up()
        for state in ("etcd", "kubelet"):
            shutil.rmtree(self.folder / "data" / state, ignore_errors=True)

    def _needs(self, *names: str) -> None:
        if missing := [name for name in names if not (self.assets / name).exists()]:
            raise ClusterError(f"cannot start the cluster: no {', '.join(missing)} in {self.assets}")

    def _start(self, name: str, *argv: str | Path) -> None:
        self.programs.start(name, argv, self._environment())

    def _environment(self) -> dict[str, str]:
        """Without what the tests set for themselves."""
        path = [str(self.assets), *map(str, self._packages.path), os.environ.get("PATH", os.defpath)]
        return {"PATH": ":".join(path), "HOME": "/root"}


def _nobody_listens() -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", pki.PORT)) != 0


def _encoded(key: str) -> str:
    return base64.b64encode(key.encode()).decode()


def _etcd(call: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(f"{ETCD}/v3/kv/{call}", data=json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, Any] = json.loads(answer.read())
        return found
