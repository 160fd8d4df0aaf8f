"""The cluster that a record names."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fusemld.hooks.clusters import IN_CLUSTER_URL, Cluster
from fusemld.model.errors import StartError
from fusemld.model.extension import ServiceAccess


class KubeClusters:
    """Implements `fusemld.hooks.clusters.Clusters`."""

    def __init__(self, configured: Cluster | None) -> None:
        self.configured = configured

    @asynccontextmanager
    async def open(self, access: ServiceAccess) -> AsyncGenerator[Cluster]:
        url = access.service.url.rstrip("/")
        if url != IN_CLUSTER_URL or self.configured is None:
            raise StartError(f"cannot use the cluster at {url}: no cluster is configured")
        yield self.configured
