"""Whether the service that was applied serves: judged from what KServe and Kubernetes say about it. No I/O.

KServe's `status.observedGeneration` is the generation of the Deployment or Knative Service that it made, not
that of the InferenceService, and in its mode `Standard` it calls a service ready while the pods of the model
before still answer (kserve#4626). So the workload itself is asked; the run that it belongs to is in the
annotations that KServe hands on to it. Without it only a service that never had another model can be known to be
ready.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from fusemld.hooks.clusters import Json
from fusemld_kserve.manifests import RUN, Place, annotation

_DEPLOYMENT_MODES = frozenset({"Standard", "RawDeployment"})
_KNATIVE_MODES = frozenset({"Knative", "Serverless"})
_KNATIVE_CONDITIONS = frozenset({"PredictorRouteReady", "PredictorConfigurationReady", "RoutesReady"})
_FAILED_LOAD = "BlockedByFailedLoad"
_FINAL_TRANSITIONS = frozenset({_FAILED_LOAD, "InvalidSpec"})
_FINAL_REASONS = frozenset({"ProgressDeadlineExceeded", "RevisionFailed"})
_UNKNOWN = (
    "KServe calls it ready, but whether the new model answers or the one before cannot be known without seeing "
    "what runs it"
)


class Phase(Enum):
    WAITING = "waiting"
    READY = "ready"
    FAILED = "failed"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`words` are KServe's own: what is waited for, or why it failed. `url` is where a ready service is
    reached."""

    phase: Phase
    words: str = ""
    url: str = ""


def workload_place(service: Json) -> Place | None:
    """What KServe made to run the model, None where it has not said which kind that is, or says one of which
    nothing is known here (`ModelMesh`)."""
    mode = _mode(_status(service))
    metadata = service["metadata"]
    if mode in _DEPLOYMENT_MODES:
        api_version, kind, resource = "apps/v1", "Deployment", "deployments"
    elif mode in _KNATIVE_MODES:
        api_version, kind, resource = "serving.knative.dev/v1", "Service", "services"
    else:
        return None
    return Place(
        api_version=api_version,
        kind=kind,
        resource=resource,
        namespace=metadata["namespace"],
        name=f"{metadata['name']}-predictor",
    )


def _mode(status: Json) -> str:
    """Before release 0.16 (kserve#4423) the status does not name it, but the conditions of a service that is ready
    tell."""
    found: str = status.get("deploymentMode") or ""
    if found or _condition(status, "Ready") != "True":
        return found
    kinds = {each.get("type") for each in status["conditions"]}
    return "Knative" if kinds & _KNATIVE_CONDITIONS else "Standard"


def judge(service: Json, *, run: str, place: Place | None = None, workload: Json | None = None) -> Verdict:
    """Of a service as `run` applied it. `workload` is what is at `place`, None while there is nothing; without
    a place the workload cannot be seen."""
    status = _status(service)
    words = _conditions(status)
    if failed := failure(service):
        return Verdict(phase=Phase.FAILED, words="; ".join(filter(None, (failed, words))))
    if _condition(status, "Ready") != "True":
        return Verdict(phase=Phase.WAITING, words=words or "KServe has not said anything yet")
    if place is None and service["metadata"].get("generation", 0) > 1:
        return Verdict(phase=Phase.FAILED, words=_UNKNOWN)
    if place is not None and (behind := _workload_behind(workload, place.kind, run)):
        return Verdict(phase=Phase.WAITING, words=behind)
    url = status.get("url") or (status.get("address") or {}).get("url") or ""
    if not url:
        return Verdict(phase=Phase.WAITING, words="ready, but KServe has not given it a URL yet")
    return Verdict(phase=Phase.READY, url=base_url(url))


def failure(service: Json | None) -> str:
    """What will not pass by itself, empty where there is no such thing. It stays in the status until KServe
    looks at a new specification."""
    status = _status(service) if service is not None else {}
    model = status.get("modelStatus") or {}
    transition = model.get("transitionStatus")
    if transition in _FINAL_TRANSITIONS:
        info = model.get("lastFailureInfo") or {}
        code = f"exit status {info['exitCode']}" if info.get("exitCode") else ""
        parts = (transition, info.get("reason"), info.get("location"), code, info.get("message"))
        return ": ".join(str(part).strip() for part in parts if part)
    for condition in status.get("conditions") or ():
        if condition.get("status") == "False" and condition.get("reason") in _FINAL_REASONS:
            return _said(condition)
    return ""


def is_of_a_load(service: Json | None) -> bool:
    """Whether the failure is that a container has ended, which kubelet then starts again: KServe says so after
    every such end, and takes it back when the container runs."""
    model = _status(service).get("modelStatus") if service is not None else None
    return (model or {}).get("transitionStatus") == _FAILED_LOAD


def base_url(url: str) -> str:
    """Without the inference path that older releases put into `address.url`."""
    for version in ("/v1/models/", "/v2/models/"):
        url = url.partition(version)[0]
    return url.rstrip("/")


def _workload_behind(workload: Json | None, kind: str, run: str) -> str:
    """Why the workload does not serve the run's model alone yet, empty where it does."""
    if workload is None:
        return "KServe has not made the predictor yet"
    template = workload["spec"].get("template") or {}
    if annotation(template, RUN) != run:
        return "KServe has not updated the predictor yet"
    status = _status(workload)
    if status.get("observedGeneration", 0) < workload["metadata"].get("generation", 0):
        return "the predictor's update has not begun yet"
    if kind == "Deployment":
        return _rollout(workload, status)
    latest, ready = status.get("latestCreatedRevisionName"), status.get("latestReadyRevisionName")
    if latest != ready or _condition(status, "Ready") != "True":
        return f"revision {latest} of the predictor is not ready yet ({_conditions(status) or 'nothing said'})"
    return ""


def _rollout(workload: Json, status: Json) -> str:
    """As `kubectl rollout status` sees it."""
    wanted = workload["spec"].get("replicas", 1)
    updated, total = status.get("updatedReplicas", 0), status.get("replicas", 0)
    available = status.get("availableReplicas", 0)
    if updated < wanted:
        return f"{updated} of {wanted} pods of the predictor are updated"
    if total > updated:
        return f"{total - updated} pods of the model before are still there"
    if available < updated:
        return f"{available} of {updated} pods of the predictor are available"
    return ""


def _conditions(status: Json) -> str:
    """Of what is not as it should be; the summary only where nothing else is said."""
    found = [each for each in status.get("conditions") or () if each.get("status") != "True"]
    found = [each for each in found if each.get("severity", "") == "" and each.get("type") != "Stopped"]
    parts = [each for each in found if each.get("type") != "Ready"] or found
    return "; ".join(_said(each) for each in parts)


def _said(condition: Json) -> str:
    state = "not ready" if condition.get("status") == "False" else "not known to be ready yet"
    name = str(condition.get("type", "")).removesuffix("Ready") or "Service"
    said = ": ".join(str(condition[key]) for key in ("reason", "message") if condition.get(key))
    return f"{name} {state}" + (f": {said}" if said else "")


def _condition(status: Json, kind: str) -> str:
    return next(
        (str(each.get("status")) for each in status.get("conditions") or () if each.get("type") == kind), ""
    )


def _status(thing: Json) -> Json:
    found = thing.get("status")
    return found if isinstance(found, dict) else {}
