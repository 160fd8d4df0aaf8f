"""Applications: what predictor steps leave behind."""

from __future__ import annotations

import msgspec

from fusemld.model.extension import ResolvedService


class Application(msgspec.Struct, frozen=True, kw_only=True):
    """A served model.

    `run_created_at` orders updates: a run older than the one recorded never overwrites it. What deleting the
    application deletes: `services` are embedded services; `objects` are Kubernetes objects
    (`apiVersion/kind/namespace/name`, in that order) of the cluster behind `cluster`, whose API server was at
    `server` when they were made; `copies` are prefixes in the object store behind `store`.
    """

    name: str
    type: str
    url: str
    description: str = ""
    project: str = ""
    workflow: str = ""
    run: str = ""
    run_created_at: float = 0.0
    revision: int = 1
    services: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    cluster: ResolvedService | None = None
    server: str = ""
    copies: tuple[str, ...] = ()
    store: ResolvedService | None = None
    updated_at: float = 0.0
