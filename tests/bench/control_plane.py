"""An API server of the benchmark's own, without nodes: etcd and kube-apiserver in a folder that goes afterwards.

It writes an audit log, so what clients asked for and when is taken from the server's own record. Users are known
by static tokens, all of the group `system:masters`: neither authorization nor fairness is measured.
"""

from __future__ import annotations

import json
import secrets
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tests.cluster.local import LocalCluster, assets
from tests.cluster.packages import UnpackedPackages

NAMESPACE = "bench"
USERS = ("admin", "bare", "fusemld", "stand-in")
START_S = 120.0
_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"

_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "users": [user for user in USERS if user != "admin"]},
        {"level": "None"},
    ],
}


class ControlPlane(msgspec.Struct, frozen=True, kw_only=True):
    """`audit` is a log of one JSON event a line."""

    url: str
    authority: Path
    audit: Path
    tokens: dict[str, str]
    pid: int

    def tls(self) -> ssl.SSLContext:
        """Trusts the server's own certificate; its names are not checked."""
        context = ssl.create_default_context(cafile=str(self.authority))
        context.check_hostname = False
        return context

    def write_kubeconfig(self, user: str, file: Path) -> Path:
        access = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "c", "cluster": {"server": self.url, "certificate-authority": str(self.authority)}}
            ],
            "users": [{"name": user, "user": {"token": self.tokens[user]}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": user, "namespace": NAMESPACE}}],
            "current-context": "x",
        }
        file.write_text(json.dumps(access))
        return file

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """As the administrator."""
        with self._open(method, path, body) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def version(self) -> str:
        """Of the pods, for `first_pod`."""
        return str(self.call("GET", f"{_PODS}?limit=1")["metadata"]["resourceVersion"])

    def first_pod(self, since: str) -> dict[str, Any]:
        """The first one that was created after this version, as it was then."""
        with self._open("GET", f"{_PODS}?watch=1&resourceVersion={since}") as answer:
            event = json.loads(answer.readline())
        assert event["type"] == "ADDED", event
        found: dict[str, Any] = event["object"]
        return found

    def _open(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.tokens['admin']}", "Content-Type": "application/json"},
        )
        return urllib.request.urlopen(request, context=self.tls(), timeout=10)


@contextmanager
def control_plane() -> Iterator[ControlPlane]:
    """Both programs, and the namespace with its service account; everything is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="fusemld-bench-plane-") as name, ExitStack() as stack:
        folder = Path(name)
        store, peers, port = _free_ports(3)
        _start(
            stack,
            folder,
            "etcd",
            f"--data-dir={folder / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls=http://127.0.0.1:{store}",
            f"--advertise-client-urls=http://127.0.0.1:{store}",
            f"--listen-peer-urls=http://127.0.0.1:{peers}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peers}",
            f"--initial-cluster=default=http://127.0.0.1:{peers}",
        )
        tokens = {user: secrets.token_hex(16) for user in USERS}
        (folder / "tokens.csv").write_text(
            "".join(f'{token},{user},{user},"system:masters"\n' for user, token in tokens.items())
        )
        (folder / "policy.json").write_text(json.dumps(_POLICY))
        key = folder / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        server = _start(
            stack,
            folder,
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{store}",
            f"--secure-port={port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--cert-dir={folder / 'certificates'}",
            "--authorization-mode=RBAC",
            f"--token-auth-file={folder / 'tokens.csv'}",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.97.0.0/24",
            f"--audit-policy-file={folder / 'policy.json'}",
            f"--audit-log-path={folder / 'audit.log'}",
            "--audit-log-mode=batch",
        )
        plane = ControlPlane(
            url=f"https://127.0.0.1:{port}",
            authority=folder / "certificates" / "apiserver.crt",
            audit=folder / "audit.log",
            tokens=tokens,
            pid=server.pid,
        )
        _wait_until_ready(plane, server, folder / "kube-apiserver.log")
        plane.call("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        # Nobody plays the controller that makes it.
        plane.call("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", {"metadata": {"name": "default"}})
        yield plane


def _wait_until_ready(plane: ControlPlane, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            plane.call("GET", "/api/v1/namespaces/default")
        except (OSError, urllib.error.URLError, ssl.SSLError):
            assert server.poll() is None, f"the API server ended:\n{log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"no API server after {START_S:.0f} s:\n{log.read_text()[-3000:]}"
            time.sleep(0.2)
        else:
            return


def _start(stack: ExitStack, folder: Path, program: str, *arguments: str) -> subprocess.Popen[bytes]:
    path = _find(program)
    with (folder / f"{program}.log").open("wb") as log:
        process = subprocess.Popen([path, *arguments], cwd=folder, stdout=log, stderr=log)

    def end() -> None:
        process.kill()
        process.wait()

    stack.callback(end)
    return process


def _find(program: str) -> Path:
    """Where the tests' cluster has them."""
    if program != "etcd":
        return assets() / program
    packages = UnpackedPackages(LocalCluster().folder / "deb")
    packages.add("etcd-server")
    return packages.program(program)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
