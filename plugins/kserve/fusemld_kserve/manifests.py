"""The Kubernetes objects of a served model: their names, what they say, and whose they are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

import msgspec

from fusemld.hooks.clusters import INSTANCE, MANAGED_BY, MANAGER, Json
from fusemld.hooks.stores import StoreConnection
from fusemld_kserve.engines import Layout
from fusemld_kserve.options import Resources

GROUP_VERSION: Final = "serving.kserve.io/v1beta1"
KIND: Final = "InferenceService"
RESOURCE: Final = "inferenceservices"

APPLICATION: Final = "fusemld.io/application"
WORKFLOW: Final = "fusemld.io/workflow"
RUN: Final = "fusemld.io/run"
RUN_CREATED_AT: Final = "fusemld.io/run-created-at"
"""Seconds since the epoch: an older run never overwrites a newer one's service."""

_LONGEST_NAME = 36
"""Knative makes host names and labels of it: `NAME-predictor-00001-deployment` in 63 characters."""
_SHORTEST_LIMIT = 16
_LONGEST_LABEL = 63
_ANNOTATIONS = "serving.kserve.io"


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Who makes the objects, for which run."""

    instance: str
    application: str
    workflow: str
    run: str
    run_created_at: float

    @property
    def labels(self) -> dict[str, str]:
        return {MANAGED_BY: MANAGER, INSTANCE: self.instance, APPLICATION: self.application}

    @property
    def annotations(self) -> dict[str, str]:
        return {WORKFLOW: self.workflow, RUN: self.run, RUN_CREATED_AT: repr(self.run_created_at)}


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """An object that is or will be in a cluster; `resource` is the plural in its path."""

    api_version: str
    kind: str
    resource: str
    namespace: str
    name: str

    @property
    def collection(self) -> str:
        root = "/api" if self.api_version == "v1" else "/apis"
        return f"{root}/{self.api_version}/namespaces/{self.namespace}/{self.resource}"

    @property
    def path(self) -> str:
        return f"{self.collection}/{self.name}"

    @property
    def reference(self) -> str:
        """As applications record it."""
        return f"{self.api_version}/{self.kind}/{self.namespace}/{self.name}"

    def manifest(self, metadata: Json) -> Json:
        return {
            "apiVersion": self.api_version,
            "kind": self.kind,
            "metadata": {"name": self.name, "namespace": self.namespace, **metadata},
        }


def service_name(application: str, namespace: str) -> str:
    """Of the InferenceService: the application's name, or the beginning of it and a hash. KServe makes the host
    name `NAME-predictor-NAMESPACE` of it, whose first part holds 63 characters."""
    limit = max(_SHORTEST_LIMIT, min(_LONGEST_NAME, _LONGEST_LABEL - len("-predictor-") - len(namespace)))
    if len(application) <= limit:
        return application
    digest = hashlib.sha256(application.encode()).hexdigest()[:8]
    return f"{application[: limit - 9].rstrip('-')}-{digest}"


def service_place(name: str, namespace: str) -> Place:
    return Place(api_version=GROUP_VERSION, kind=KIND, resource=RESOURCE, namespace=namespace, name=name)


def access_places(service: str, namespace: str, run: str) -> tuple[Place, Place]:
    """Secret and ServiceAccount of a service for one run. Every run has its own, so that those of the model that
    serves stay as they are until another one serves."""
    name = f"{service}-{hashlib.sha256(run.encode()).hexdigest()[:8]}"
    return (
        Place(api_version="v1", kind="Secret", resource="secrets", namespace=namespace, name=name),
        Place(api_version="v1", kind="ServiceAccount", resource="serviceaccounts", namespace=namespace, name=name),
    )


def secret(place: Place, owner: Owner, store: StoreConnection) -> Json:
    """How the served model reaches the object store, as KServe reads it (`pkg/credentials/s3`). Holds secrets."""
    notes = {"s3-region": store.region, "s3-verifyssl": "1" if store.verify_tls else "0"}
    if store.endpoint is not None:
        parts = urlsplit(store.endpoint)
        notes |= {
            "s3-endpoint": parts.netloc + parts.path.rstrip("/"),
            "s3-usehttps": "1" if parts.scheme == "https" else "0",
        }
    if store.access_key is None:
        notes["s3-useanoncredential"] = "true"
    annotations = owner.annotations | {f"{_ANNOTATIONS}/{key}": value for key, value in notes.items()}
    return {
        **place.manifest({"labels": owner.labels, "annotations": annotations}),
        "type": "Opaque",
        "stringData": {
            "AWS_ACCESS_KEY_ID": store.access_key or "",
            "AWS_SECRET_ACCESS_KEY": store.secret_key or "",
        },
    }


def is_loopback(store: StoreConnection) -> bool:
    """Whether it is an object store of one machine only, as the embedded one is."""
    host = "" if store.endpoint is None else urlsplit(store.endpoint).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def service_account(place: Place, owner: Owner, secret_name: str) -> Json:
    return {
        **place.manifest({"labels": owner.labels, "annotations": owner.annotations}),
        "secrets": [{"name": secret_name}],
    }


def inference_service(
    place: Place, owner: Owner, layout: Layout, *, storage: str, account: str, resources: Resources
) -> Json:
    """`storage` is the address of what is served.

    KServe hands labels and annotations on to its pods. Those must not pass for ours: what finds the things of this
    daemon by their labels is not to find them, so the labels of the predictor say otherwise.
    """
    model: Json = {
        "modelFormat": {"name": layout.engine},
        "protocolVersion": layout.protocol,
        "storageUri": storage,
    }
    if layout.runtime_version:
        model["runtimeVersion"] = layout.runtime_version
    if layout.args:
        model["args"] = list(layout.args)
    if resources != Resources():
        model["resources"] = {"requests": dict(resources.requests), "limits": dict(resources.limits)}
    return {
        **place.manifest({"labels": owner.labels, "annotations": owner.annotations}),
        "spec": {
            "predictor": {
                "labels": {MANAGED_BY: "kserve", INSTANCE: ""},
                "serviceAccountName": account,
                "model": model,
            }
        },
    }


def applicable(service: Json) -> Json:
    """An InferenceService as it was read, as one that can be applied again."""
    metadata = service["metadata"]
    kept = {key: metadata[key] for key in ("name", "namespace", "labels", "annotations") if key in metadata}
    return {"apiVersion": GROUP_VERSION, "kind": KIND, "metadata": kept, "spec": service["spec"]}


def label(thing: Json, name: str) -> str:
    return _text(thing, "labels", name)


def annotation(thing: Json, name: str) -> str:
    return _text(thing, "annotations", name)


def created_at(service: Json) -> float:
    """When the run was created that wrote the service; 0 where it does not say."""
    try:
        return float(annotation(service, RUN_CREATED_AT) or 0.0)
    except ValueError:
        return 0.0


def _text(thing: Json, field: str, name: str) -> str:
    found: Mapping[str, str] = thing.get("metadata", {}).get(field) or {}
    return found.get(name, "")
