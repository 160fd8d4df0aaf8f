"""Credentials that a program prints: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins.

Run here and not by kubernetes-asyncio, whose provider leaves a program that hangs running, puts the keys that it
prints into files that stay, and forgets when certificates expire.
"""

from __future__ import annotations

import os
import subprocess
from datetime import datetime

import anyio
import msgspec

from fusemld.kube.kubeconfig import Cluster, ExecPlugin
from fusemld.model.errors import StartError, UnavailableError

TIMEOUT_S = 60.0
_LONGEST_WORDS = 1000


class ExecStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    expiration_timestamp: datetime | None = None
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""

    def __repr__(self) -> str:
        return f"ExecStatus(expiration_timestamp={self.expiration_timestamp!r})"


class _ExecCredential(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    api_version: str
    kind: str
    status: ExecStatus


async def run(plugin: ExecPlugin, cluster: Cluster, timeout_s: float = TIMEOUT_S) -> ExecStatus:
    """What the program prints. Raises `StartError` where it cannot be started or prints something else,
    `UnavailableError` where it fails (with its words) or takes too long; it is killed then."""
    if plugin.interactive_mode == "Always":
        raise StartError(f"cannot run the credential plugin {plugin.command}: it wants a terminal")
    environment = os.environ | {variable.name: variable.value for variable in plugin.env or ()}
    environment["KUBERNETES_EXEC_INFO"] = msgspec.json.encode(_info(plugin, cluster)).decode()
    command = (plugin.command, *(plugin.args or ()))
    try:
        with anyio.fail_after(timeout_s):
            process = await anyio.run_process(
                command, env=environment, stdin=subprocess.DEVNULL, check=False, start_new_session=True
            )
    except TimeoutError:
        raise UnavailableError(
            f"cannot run the credential plugin {plugin.command}: it took longer than {timeout_s:g} s"
        ) from None
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is given a null character"
        hint = f"; {plugin.install_hint}" if plugin.install_hint else ""
        raise StartError(f"cannot run the credential plugin {plugin.command}: {cause}{hint}") from error
    if process.returncode != 0:
        words = process.stderr.decode(errors="replace").strip()[-_LONGEST_WORDS:]
        raise UnavailableError(
            f"cannot get credentials: {plugin.command} ended with status {process.returncode}: {words}"
        )
    try:
        credential = msgspec.json.decode(process.stdout, type=_ExecCredential)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StartError(f"cannot use what {plugin.command} printed: {error}") from None
    if credential.api_version != plugin.api_version:
        raise StartError(
            f"cannot use what {plugin.command} printed: it is {credential.api_version}, "
            f"the kubeconfig says {plugin.api_version}"
        )
    if not (credential.status.token or credential.status.client_certificate_data):
        raise StartError(f"cannot use what {plugin.command} printed: it has neither a token nor a certificate")
    return credential.status


def _info(plugin: ExecPlugin, cluster: Cluster) -> dict[str, object]:
    spec: dict[str, object] = {"interactive": False}
    if plugin.provide_cluster_info:
        told = {
            "server": cluster.server,
            "tls-server-name": cluster.tls_server_name,
            "insecure-skip-tls-verify": cluster.insecure_skip_tls_verify,
            "certificate-authority-data": cluster.certificate_authority_data,
            "proxy-url": cluster.proxy_url,
        }
        spec["cluster"] = {name: value for name, value in told.items() if value}
    return {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}
