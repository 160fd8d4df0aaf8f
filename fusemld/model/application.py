"""Applications: what predictor steps leave behind."""

from __future__ import annotations

import msgspec


class Application(msgspec.Struct, frozen=True, kw_only=True):
    """A served model.

    `run_created_at` orders updates: a run older than the one recorded never overwrites it. `services` are the
    embedded services and `objects` the Kubernetes objects (`apiVersion/kind/namespace/name`) that deleting
    the application deletes.
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
    updated_at: float = 0.0
