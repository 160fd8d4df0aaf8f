"""Somebody who may do in a namespace what the example's Role says, and nothing else."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import yaml

from tests.cluster import pki
from tests.cluster.api import Api, Json

ROLE = Path(__file__).parents[2] / "examples/kubernetes/role.yaml"
"""What operators are told to grant."""
ACCOUNT = "fusemld"
PATHS = {
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts/{}",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles/{}",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings/{}",
}


def documents() -> dict[str, Json]:
    """Those of the example by their kinds."""
    return {document["kind"]: document for document in yaml.safe_load_all(ROLE.read_text())}


def grant(api: Api, namespace: str) -> str:
    """Apply the example as an operator does; a token of its account."""
    for kind, document in documents().items():
        api.apply(PATHS[kind].format(namespace, document["metadata"]["name"]), json.dumps(document).encode())
    account = PATHS["ServiceAccount"].format(namespace, ACCOUNT)
    answer = api.create(f"{account}/token", {"spec": {"expirationSeconds": 3600}})
    return str(answer["status"]["token"])


def write_kubeconfig(file: Path, token: str, authority: Path, namespace: str, server: str = pki.SERVER) -> None:
    data = base64.b64encode(authority.read_bytes()).decode()
    access = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "it", "cluster": {"server": server, "certificate-authority-data": data}}],
        "users": [{"name": "it", "user": {"token": token}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": namespace}}],
        "current-context": "it",
    }
    file.touch(mode=0o600)
    file.write_text(json.dumps(access))
