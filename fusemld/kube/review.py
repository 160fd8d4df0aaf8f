"""What a cluster offers, and what it lets us do."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fusemld.hooks.clusters import Cluster, Json
from fusemld.model.errors import NotFoundError

_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """May we `verb` this `resource` (`pods`, `pods/log`)? An empty `namespace` means all of them."""

    verb: str
    resource: str
    group: str = ""
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        kind = f"{self.resource}.{self.group}" if self.group else self.resource
        place = f" in {self.namespace}" if self.namespace else " in all namespaces"
        return f"{self.verb} {kind}{f' {self.name}' if self.name else ''}{place}"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`reason` is the server's, often empty."""

    check: Check
    is_allowed: bool
    reason: str = ""


async def permitted(cluster: Cluster, checks: Sequence[Check]) -> list[Verdict]:
    """The server's answer to each check, in their order (SelfSubjectAccessReview, which everybody may ask)."""
    verdicts = []
    for check in checks:
        status = (await cluster.create(_REVIEWS, _review(check))).get("status") or {}
        is_allowed = status.get("allowed") is True
        verdicts.append(Verdict(check=check, is_allowed=is_allowed, reason=status.get("reason") or ""))
    return verdicts


async def server_version(cluster: Cluster) -> str:
    """Like `v1.36.2`."""
    return str((await cluster.get("/version")).get("gitVersion", ""))


async def has_api(cluster: Cluster, group: str, version: str, kind: str) -> bool:
    """Whether the server knows objects of this kind; the group of the core is empty."""
    path = f"/apis/{group}/{version}" if group else f"/api/{version}"
    try:
        found = await cluster.get(path)
    except NotFoundError:
        return False
    return any(resource.get("kind") == kind for resource in found.get("resources") or ())


def _review(check: Check) -> Json:
    resource, _, subresource = check.resource.partition("/")
    attributes = {
        "verb": check.verb,
        "group": check.group,
        "resource": resource,
        "subresource": subresource,
        "namespace": check.namespace,
        "name": check.name,
    }
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {name: value for name, value in attributes.items() if value}},
    }
