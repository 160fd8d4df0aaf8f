"""What the daemon may have to ask of an API server: the one list that `fusemld check` asks about and that the
Role in `examples/kubernetes` grants."""

from __future__ import annotations

import enum
from collections.abc import Iterator

import msgspec

from fusemld.hooks.clusters import Json

SERVING_GROUP = "serving.kserve.io"


class Need(enum.StrEnum):
    """Which part of the work stops without it."""

    STEPS = "steps as pods"
    WORDS = "the scheduler's and the registry's own words while a pod waits"
    MODELS = "models as InferenceServices"


class Permission(msgspec.Struct, frozen=True, kw_only=True):
    """One verb on one resource of the daemon's namespace; `resource` may carry a subresource (`pods/log`)."""

    verb: str
    resource: str
    group: str = ""
    need: Need

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f".{self.group}" if self.group else "")


def _all() -> Iterator[Permission]:
    for need, group, resource, verbs in (
        # One pod per attempt; `get` after a create that found the name taken, `list` and `watch` for all of them.
        (Need.STEPS, "", "pods", "create get list watch delete"),
        (Need.STEPS, "", "pods/log", "get"),
        # Codesets: looked up and created once for all runs, removed when unused.
        (Need.STEPS, "", "configmaps", "create list delete"),
        # Values of one attempt. Never read back: whoever has this Role cannot see anybody's Secrets.
        (Need.STEPS, "", "secrets", "create delete deletecollection"),
        (Need.WORDS, "", "events", "list"),
        (Need.MODELS, SERVING_GROUP, "inferenceservices", "create get list watch patch delete"),
        # Access of a served model to the object store, applied together with the InferenceService.
        (Need.MODELS, "", "secrets", "create patch delete"),
        (Need.MODELS, "", "serviceaccounts", "create patch delete"),
    ):
        for verb in verbs.split():
            yield Permission(verb=verb, resource=resource, group=group, need=need)


PERMISSIONS: tuple[Permission, ...] = tuple(_all())


def review(permission: Permission, namespace: str) -> Json:
    """The SelfSubjectAccessReview that asks whether these credentials have it."""
    resource, _, subresource = permission.resource.partition("/")
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {
            "resourceAttributes": {
                "namespace": namespace,
                "verb": permission.verb,
                "group": permission.group,
                "resource": resource,
                "subresource": subresource,
            }
        },
    }
