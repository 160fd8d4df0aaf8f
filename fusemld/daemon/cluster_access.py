"""The cluster of the settings."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fusemld.daemon.settings import Settings
from fusemld.executors.kubernetes.settings import KubernetesSettings
from fusemld.kube.client import KubeCluster
from fusemld.kube.connecting import Connection, connect

KUBERNETES = "kubernetes"


def is_configured(settings: Settings) -> bool:
    """Whether the settings speak of a cluster at all; a kubeconfig that happens to lie around changes nothing."""
    cluster = settings.kubernetes
    return settings.executor == KUBERNETES or cluster.kubeconfig is not None or cluster.in_cluster


@asynccontextmanager
async def configured(settings: Settings, instance: str) -> AsyncGenerator[KubeCluster | None]:
    """The cluster of the settings, None where there is none. Raises `StartError` where they are wrong."""
    if not is_configured(settings):
        yield None
        return
    async with connect(connection(settings.kubernetes), instance=instance) as cluster:
        yield cluster


def connection(settings: KubernetesSettings) -> Connection:
    return Connection(
        kubeconfig=settings.kubeconfig,
        context=settings.context,
        in_cluster=settings.in_cluster,
        namespace=settings.namespace,
        request_timeout_s=settings.request_timeout_s,
        requests_at_once=settings.requests_at_once,
    )
