"""Connections to API servers."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec

from fusemld import __version__
from fusemld.kube.access import AccessSource
from fusemld.kube.client import KubeCluster
from fusemld.kube.config import SERVICE_ACCOUNT, KubeconfigFiles, ServiceAccountFolder
from fusemld.kube.gate import Gate
from fusemld.kube.pace import Pace
from fusemld.kube.sending import Sender
from fusemld.kube.sockets import sockets
from fusemld.model.errors import UnavailableError

_IDLE_S = 60
_READ_BUFFER_BYTES = 1024**2


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """As the fields of the same names in the settings."""

    kubeconfig: Path | None = None
    context: str = ""
    in_cluster: bool = False
    namespace: str = ""
    request_timeout_s: float = 30.0
    requests_at_once: int = 64


@asynccontextmanager
async def connect(connection: Connection, *, instance: str) -> AsyncGenerator[KubeCluster]:
    """The cluster of the settings, with its credentials read but nothing asked of it yet. A program that gave none
    is asked again when a request needs them.

    Raises `StartError` that names the file and the cause where the configuration cannot be used.
    """
    async with connect_to(source(connection), connection, instance=instance) as cluster:
        yield cluster


@asynccontextmanager
async def connect_to(
    access: AccessSource, connection: Connection, *, instance: str
) -> AsyncGenerator[KubeCluster]:
    """The cluster of this source; of the connection only the namespace and the bounds count."""
    try:
        first = await access.load()
    except UnavailableError:
        first = await access.place()
    agent = {"User-Agent": f"fusemld/{__version__}"}
    async with (
        sockets() as make_socket,
        aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S, socket_factory=make_socket) as connector,
        aiohttp.ClientSession(
            connector=connector,
            headers=agent,
            read_bufsize=_READ_BUFFER_BYTES,
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session,
    ):
        sender = Sender(
            session, access, first, Gate(Pace(connection.requests_at_once)), connection.request_timeout_s
        )
        namespace = connection.namespace or first.namespace or "default"
        yield KubeCluster(sender, name=first.server, namespace=namespace, instance=instance)


def source(connection: Connection, environ: Mapping[str, str] = os.environ) -> AccessSource:
    """Where the credentials of a connection come from, by the rules of the settings."""
    account = ServiceAccountFolder(SERVICE_ACCOUNT, environ)
    if connection.in_cluster:
        return account
    if connection.kubeconfig is not None:
        return KubeconfigFiles([connection.kubeconfig.expanduser()], connection.context)
    if account.is_there():
        return account
    listed = [Path(path).expanduser() for path in environ.get("KUBECONFIG", "").split(os.pathsep) if path]
    return KubeconfigFiles(listed or [Path("~/.kube/config").expanduser()], connection.context)
