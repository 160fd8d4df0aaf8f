"""Kubernetes clusters as the daemon gives them to plugins: raw JSON, errors of our own family."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from fusemld.model.extension import ServiceAccess

Json = dict[str, Any]
"""A Kubernetes object as the API server sends it."""

IN_CLUSTER_URL: Final = "https://kubernetes.default.svc"
"""In a record this URL means the configured cluster, wherever the daemon runs."""

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "fusemld"
REFUSED_S: Final = 60.0
"""How long a refusal (`ForbiddenError`) is doubted: an API server that has just started does not know yet who may
do what, refuses for a moment what it allows, and may say so in the same words."""

INSTANCE: Final = "fusemld.io/instance"
"""Label on everything that a daemon creates: the identity of its state folder."""


class Refusals:
    """Those that one try after another has met. Pure: `now` (seconds, monotonic) comes in."""

    def __init__(self) -> None:
        self._since: float | None = None

    def are_believed(self, now: float) -> bool:
        """One more was met: whether all for `REFUSED_S` were refusals."""
        if self._since is None:
            self._since = now
        return now - self._since >= REFUSED_S

    def end(self) -> None:
        """Something else was met."""
        self._since = None


class Cluster(Protocol):
    """One API server with credentials. `path` is that of the API (`/api/v1/namespaces/x/pods/y`).

    Every call is bounded in time and paced: 429 and `Retry-After` slow all calls down. Raises `NotFoundError`
    (404), `ConflictError` (409, the server's words), `ForbiddenError` (401, 403), `InvalidInputError` (400, 422),
    `UnavailableError` for what may work later (no connection, time-out, 429 that stays, 5xx). After an
    `UnavailableError` of a write nobody knows whether it was done.
    """

    name: str
    """For messages: the address of the server."""
    namespace: str
    """Where things go that nobody gave a namespace."""
    instance: str
    """Value of the label `INSTANCE`."""

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Json: ...

    async def create(self, path: str, body: Json) -> Json:
        """POST to a collection."""

    async def apply(self, path: str, body: Json, *, force: bool = True) -> Json:
        """Server-side apply of one object as the field manager `MANAGER`; `path` is the object's."""

    async def patch(self, path: str, body: Json, *, subresource: str = "") -> Json:
        """Merge patch."""

    async def delete(
        self, path: str, *, uid: str | None = None, grace_s: int | None = None, propagation: str = "Background"
    ) -> bool:
        """False where it was gone already, or where `uid` is given and the object is another one by now."""

    def states(self, path: str, name: str) -> AbstractAsyncContextManager[AsyncGenerator[Json | None]]:
        """The object `name` of a collection as it is, then again after every change, None while there is none;
        it never ends by itself and hides broken watches."""


class Clusters(Protocol):
    configured: Cluster | None
    """The cluster of the settings; None where none is configured."""

    def open(self, access: ServiceAccess) -> AbstractAsyncContextManager[Cluster]:
        """The cluster that a resolved record names: the configured one for `IN_CLUSTER_URL`, else the one at its
        URL, with the credentials in its configuration. Raises `StartError` where there is none or they are wrong
        in form."""
