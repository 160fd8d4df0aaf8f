"""Credentials that a program prints: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins.

Run here and not by kubernetes-asyncio, whose provider leaves a program that hangs running, puts the keys that it
prints into files that stay, and forgets when certificates expire.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import IO

import anyio
import msgspec

from fusemld.kube.kubeconfig import Cluster, ExecPlugin
from fusemld.model.errors import StartError, UnavailableError

TIMEOUT_S = 60.0
_LONGEST_WORDS_BYTES = 1000


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
    `UnavailableError` with its words where it fails or takes too long; what runs too long is killed with what it
    started."""
    if plugin.interactive_mode == "Always":
        raise StartError(f"cannot run the credential plugin {plugin.command}: it wants a terminal")
    environment = os.environ | {variable.name: variable.value for variable in plugin.env or ()}
    environment["KUBERNETES_EXEC_INFO"] = msgspec.json.encode(_info(plugin, cluster)).decode()
    command = (plugin.command, *(plugin.args or ()))
    try:
        with tempfile.TemporaryFile() as said:
            status, printed = await _output(command, environment, said.fileno(), timeout_s)
            words = _words(said)
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is given a null character"
        hint = f"; {plugin.install_hint}" if plugin.install_hint else ""
        raise StartError(f"cannot run the credential plugin {plugin.command}: {cause}{hint}") from error
    if status is None:
        raise UnavailableError(
            f"cannot run the credential plugin {plugin.command}: it took longer than {timeout_s:g} s{words}"
        )
    if status != 0:
        raise UnavailableError(f"cannot get credentials: {plugin.command} ended with status {status}{words}")
    try:
        credential = msgspec.json.decode(printed, type=_ExecCredential)
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


async def _output(
    command: Sequence[str], environment: Mapping[str, str], errors: int, timeout_s: float
) -> tuple[int | None, bytes]:
    """Its exit status, None where it took too long, and what it printed. `errors` is the descriptor that gets its
    standard error."""
    async with await anyio.open_process(
        command, env=environment, stdin=subprocess.DEVNULL, stderr=errors, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            with anyio.move_on_after(timeout_s):
                printed = b"".join([piece async for piece in process.stdout])
                return await process.wait(), printed
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    return None, b""


def _words(said: IO[bytes]) -> str:
    """The end of what the program said, to be put behind a message."""
    said.seek(max(said.seek(0, os.SEEK_END) - _LONGEST_WORDS_BYTES, 0))
    words = said.read().decode(errors="replace").strip()
    return f": {words}" if words else ""


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
