"""What the daemon may have to ask of an API server: the one list that `fusemld check` asks about and that the
Role in `examples/kubernetes` grants."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final

import msgspec

from fusemld.kube.review import Check

SERVING_GROUP = "serving.kserve.io"
SERVING_VERSION = "v1beta1"


class Need(enum.StrEnum):
    """What a permission is for."""

    STEPS = "steps"
    WORDS = "explanations"
    MODELS = "models"
    ROLLOUTS = "rollouts"

    @property
    def consequence(self) -> str:
        """Of being without it."""
        return _CONSEQUENCES[self]


_CONSEQUENCES: Final = {
    Need.STEPS: "Steps cannot be pods without that.",
    Need.WORDS: "What a pod waits for is not told in the words of those who keep it waiting.",
    Need.MODELS: "Models cannot become InferenceServices without that.",
    Need.ROLLOUTS: "Whether the new model of an application already serves is known by KServe's word alone.",
}


class Permission(msgspec.Struct, frozen=True, kw_only=True):
    """One verb on one resource of the daemon's namespace; `resource` may carry a subresource (`pods/log`)."""

    verb: str
    resource: str
    group: str = ""
    need: Need

    @property
    def kind(self) -> str:
        return f"{self.resource}.{self.group}" if self.group else self.resource

    def check(self, namespace: str) -> Check:
        return Check(verb=self.verb, resource=self.resource, group=self.group, namespace=namespace)


def _all() -> Iterator[Permission]:
    for need, group, resource, verbs in (
        # One pod per attempt; `get` after a create that found the name taken, `list` and `watch` for all of them.
        (Need.STEPS, "", "pods", "create get list watch delete"),
        (Need.STEPS, "", "pods/log", "get"),
        # Codesets: created once for all runs, removed when unused.
        (Need.STEPS, "", "configmaps", "create delete deletecollection"),
        # Credentials of one attempt. Neither `get` nor `list`: what is written is not read back.
        (Need.STEPS, "", "secrets", "create delete deletecollection"),
        (Need.WORDS, "", "events", "list watch"),
        (Need.MODELS, SERVING_GROUP, "inferenceservices", "create get list watch patch delete"),
        # Access of a served model to the object store, applied together with the InferenceService.
        (Need.MODELS, "", "secrets", "create patch delete"),
        (Need.MODELS, "", "serviceaccounts", "create patch delete deletecollection"),
        # What KServe makes to run a model, with or without Knative.
        (Need.ROLLOUTS, "apps", "deployments", "list watch"),
        (Need.ROLLOUTS, "serving.knative.dev", "services", "list watch"),
    ):
        for verb in verbs.split():
            yield Permission(verb=verb, resource=resource, group=group, need=need)


PERMISSIONS: tuple[Permission, ...] = tuple(_all())
