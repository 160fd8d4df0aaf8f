"""Access to extensions where the registry has no record, and checks of records against the live service."""

from __future__ import annotations

from typing import Protocol

import msgspec

from fusemld.hooks.clusters import Clusters
from fusemld.hooks.environments import Note
from fusemld.hooks.services import Services
from fusemld.model.extension import Extension, ServiceAccess


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    ok: bool
    message: str


class Resolver(Protocol):
    """`offers` are records as the registry would hold them, without endpoints and credentials; they are matched
    like records, and only when no record of the registry comes near."""

    name: str
    resources: tuple[str, ...]
    """The values of `service_resource` that `check` understands."""

    def offers(self, executor: str) -> tuple[Extension, ...]:
        """What this resolver could give access to for steps of that executor."""

    async def access(
        self, extension_id: str, service_id: str, services: Services, clusters: Clusters, note: Note
    ) -> Extension:
        """The offer as a full record with endpoint and credentials; starts what needs to be started. Raises
        `StartError` where it turns out that there is nothing to give access to, naming what is missing."""

    async def check(self, access: ServiceAccess, clusters: Clusters) -> CheckResult:
        """Ask the live service whether the record is right."""
