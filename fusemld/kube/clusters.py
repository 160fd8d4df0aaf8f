"""The cluster that a record names."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fusemld.hooks.clusters import IN_CLUSTER_URL, Cluster
from fusemld.kube import records
from fusemld.kube.connecting import Connection, connect_to
from fusemld.model.errors import StartError
from fusemld.model.extension import ServiceAccess


class KubeClusters:
    """Implements `fusemld.hooks.clusters.Clusters`.

    `fusemld.kube.records.given` says which keys of a record's configuration are credentials. `instance` labels
    what is created in the clusters of records.
    """

    def __init__(
        self, configured: Cluster | None, *, instance: str = "", connection: Connection | None = None
    ) -> None:
        self.configured = configured
        self._instance = configured.instance if configured is not None else instance
        self._bounds = Connection() if connection is None else connection

    @asynccontextmanager
    async def open(self, access: ServiceAccess) -> AsyncGenerator[Cluster]:
        url = access.service.url.rstrip("/")
        if url == IN_CLUSTER_URL:
            if self.configured is None:
                raise StartError(f"cannot use the cluster at {url}: no cluster is configured")
            yield self.configured
            return
        where = f"{access.service.extension_id}/{access.service.service_id}"
        given = records.given(url, access.configuration, where)
        bounds = Connection(
            request_timeout_s=self._bounds.request_timeout_s, requests_at_once=self._bounds.requests_at_once
        )
        async with connect_to(given, bounds, instance=self._instance) as cluster:
            yield cluster
