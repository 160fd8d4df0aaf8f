"""Certificates and kubeconfigs of the cluster: who may be what is told by the subject."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.packages import command

PORT = 6443
SERVER = f"https://127.0.0.1:{PORT}"
SERVICE_ADDRESS = "10.96.0.1"
"""Of the API server, in pods."""


def subjects(node: str) -> dict[str, str]:
    return {
        "apiserver": "/CN=kube-apiserver",
        "admin": "/O=system:masters/CN=admin",
        "controller-manager": "/CN=system:kube-controller-manager",
        "scheduler": "/CN=system:kube-scheduler",
        "proxy": "/CN=system:kube-proxy",
        "kubelet": f"/O=system:nodes/CN=system:node:{node}",
    }


def create(folder: Path, address: str, node: str) -> None:
    """Once; `address` is the host's own one, as pods see it."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "done").exists():
        return
    command("openssl", "genrsa", "-out", folder / "sa.key", "2048")
    command("openssl", "rsa", "-in", folder / "sa.key", "-pubout", "-out", folder / "sa.pub")
    command(
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "365", "-subj", "/CN=test-ca",
        "-keyout", folder / "ca.key", "-out", folder / "ca.crt",
    )  # fmt: skip
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    addresses = ["127.0.0.1", SERVICE_ADDRESS, address]
    extensions = folder / "extensions"
    extensions.write_text(
        "subjectAltName=" + ",".join([f"DNS:{name}" for name in names] + [f"IP:{ip}" for ip in addresses]) + "\n"
    )
    for name, subject in subjects(node).items():
        sign(folder, name, subject, "-extfile", extensions)
    (folder / "done").touch()


def sign(folder: Path, name: str, subject: str, *options: str | Path) -> Path:
    """A certificate of the cluster's authority for `subject`, and the kubeconfig that uses it."""
    key, request, certificate = (folder / f"{name}.{ending}" for ending in ("key", "csr", "crt"))
    command(
        "openssl", "req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", subject,
    )  # fmt: skip
    command(
        "openssl", "x509", "-req", "-in", request, "-CA", folder / "ca.crt", "-CAkey", folder / "ca.key",
        "-CAcreateserial", "-days", "365", "-out", certificate, *options,
    )  # fmt: skip
    kubeconfig = folder / f"{name}.kubeconfig"
    kubeconfig.write_text(
        f"""\
apiVersion: v1
kind: Config
clusters: [{{name: test, cluster: {{server: "{SERVER}", certificate-authority: {folder / "ca.crt"}}}}}]
users: [{{name: {name}, user: {{client-certificate: {certificate}, client-key: {key}}}}}]
contexts: [{{name: test, context: {{cluster: test, user: {name}}}}}]
current-context: test
"""
    )
    return kubeconfig
