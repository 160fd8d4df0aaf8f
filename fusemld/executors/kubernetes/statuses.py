"""What an API server says about a pod, as far as it counts here. Whatever the JSON looks like, reading it does not
raise: what has not the expected form is absent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from fusemld.executors.kubernetes.pod import STEP, is_sidecar
from fusemld.hooks.clusters import Json

FAILED: Final = "Failed"
SUCCEEDED: Final = "Succeeded"
_GRACE_S: Final = 30
_GATES: Final = "ReadinessGatesNotReady"
"""Kubelet's reason where somebody (a mutating webhook) has given the pod readiness gates."""


class Terminated(msgspec.Struct, frozen=True, kw_only=True):
    exit_code: int
    signal: int
    reason: str
    message: str
    started_at: float | None
    finished_at: float | None


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """`waiting` is the reason why it does, with kubelet's words in `message`; empty if it does not."""

    name: str
    is_init: bool = False
    waiting: str = ""
    message: str = ""
    running_since: float | None = None
    is_running: bool = False
    terminated: Terminated | None = None


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    is_true: bool
    reason: str
    message: str
    since: float | None


class Warned(msgspec.Struct, frozen=True, kw_only=True):
    """An event of type Warning."""

    reason: str
    message: str
    first_at: float | None
    last_at: float | None


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """`deleted_at` is when its deletion was asked for, at the earliest; `gone_by` when it should be gone then."""

    phase: str
    reason: str
    message: str
    node: str
    created_at: float | None
    started_at: float | None
    deleted_at: float | None
    gone_by: float | None
    conditions: Mapping[str, Condition]
    step: Container
    helpers: tuple[Container, ...]
    memory_limit: str
    deadline_at: float | None
    """When kubelet ends it by itself."""
    own: frozenset[str]
    """Names of what was made for it: its Secret and its ConfigMaps."""

    @property
    def is_terminal(self) -> bool:
        return self.phase in (FAILED, SUCCEEDED)

    @property
    def has_sidecar(self) -> bool:
        """Its outputs can be read only as long as it is there."""
        return any(is_sidecar(helper.name) for helper in self.helpers)

    def has(self, condition: str) -> bool:
        found = self.conditions.get(condition)
        return found is not None and found.is_true

    @property
    def silent_since(self) -> float | None:
        """Since when there is no word from its node, as far as that shows: the controller that notices takes away
        the pod's readiness, and nothing else."""
        ready = self.conditions.get("Ready")
        if (
            ready is None
            or ready.is_true
            or ready.reason == _GATES
            or not self.has("ContainersReady")
            or not self.step.is_running
        ):
            return None
        return ready.since


def read_pod(pod: Json) -> Pod:
    metadata, spec, status = (_mapping(pod.get(part)) for part in ("metadata", "spec", "status"))
    gone_by = _time(metadata.get("deletionTimestamp"))
    # In the end kubelet deletes it once more, without grace; the time of the first request is lost then.
    grace_s = metadata.get("deletionGracePeriodSeconds") or spec.get("terminationGracePeriodSeconds")
    started_at, allowed_s = _time(status.get("startTime")), spec.get("activeDeadlineSeconds")
    steps = [_container(one, is_init=False) for one in _mappings(status.get("containerStatuses"))]
    inits = [_container(one, is_init=True) for one in _mappings(status.get("initContainerStatuses"))]
    return Pod(
        phase=_text(status.get("phase")),
        reason=_text(status.get("reason")),
        message=_text(status.get("message")),
        node=_text(spec.get("nodeName")),
        created_at=_time(metadata.get("creationTimestamp")),
        started_at=started_at,
        deleted_at=None if gone_by is None else gone_by - (grace_s if isinstance(grace_s, int) else _GRACE_S),
        gone_by=gone_by,
        conditions={_text(one.get("type")): _condition(one) for one in _mappings(status.get("conditions"))},
        step=next((one for one in steps if one.name == STEP), Container(name=STEP)),
        helpers=tuple(inits),
        memory_limit=_memory_limit(spec),
        deadline_at=started_at + allowed_s if started_at is not None and isinstance(allowed_s, int) else None,
        own=unpacked_config_maps(pod) | {_text(metadata.get("name"))},
    )


def unpacked_config_maps(pod: Json) -> frozenset[str]:
    """The names of the ConfigMaps that a pod of ours unpacks."""
    found: set[str] = set()
    for volume in _mappings(_mapping(pod.get("spec")).get("volumes")):
        sources = _mappings(_mapping(volume.get("projected")).get("sources"))
        found.update(_text(_mapping(source.get("configMap")).get("name")) for source in sources)
    return frozenset(found - {""})


def read_warnings(events: Iterable[Json]) -> tuple[Warned, ...]:
    """Of events of any type, in the order of their last time."""
    found = [
        Warned(
            reason=_text(event.get("reason")),
            message=_text(event.get("message")),
            first_at=_first(event, "firstTimestamp", "eventTime", "lastTimestamp"),
            last_at=_last(event),
        )
        for event in map(_mapping, events)
        if event.get("type") == "Warning"
    ]
    return tuple(sorted(found, key=lambda one: one.last_at or 0.0))


def _container(status: Mapping[str, Any], *, is_init: bool) -> Container:
    state = _mapping(status.get("state"))
    waiting, running, terminated = (_mapping(state.get(kind)) for kind in ("waiting", "running", "terminated"))
    return Container(
        name=_text(status.get("name")),
        is_init=is_init,
        waiting=_text(waiting.get("reason")),
        message=_text(waiting.get("message")),
        is_running=isinstance(state.get("running"), dict),
        running_since=_time(running.get("startedAt")),
        terminated=_terminated(terminated) if isinstance(state.get("terminated"), dict) else None,
    )


def _terminated(state: Mapping[str, Any]) -> Terminated:
    return Terminated(
        exit_code=_number(state.get("exitCode")),
        signal=_number(state.get("signal")),
        reason=_text(state.get("reason")),
        message=_text(state.get("message")),
        started_at=_time(state.get("startedAt")),
        finished_at=_time(state.get("finishedAt")),
    )


def _condition(one: Mapping[str, Any]) -> Condition:
    return Condition(
        is_true=one.get("status") == "True",
        reason=_text(one.get("reason")),
        message=_text(one.get("message")),
        since=_time(one.get("lastTransitionTime")),
    )


def _memory_limit(spec: Mapping[str, Any]) -> str:
    for container in _mappings(spec.get("containers")):
        if container.get("name") == STEP:
            return _text(_mapping(_mapping(container.get("resources")).get("limits")).get("memory"))
    return ""


def _last(event: Mapping[str, Any]) -> float | None:
    series = _time(_mapping(event.get("series")).get("lastObservedTime"))
    return series if series is not None else _first(event, "lastTimestamp", "eventTime", "firstTimestamp")


def _first(event: Mapping[str, Any], *fields: str) -> float | None:
    return next((at for at in (_time(event.get(field)) for field in fields) if at is not None), None)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _time(value: object) -> float | None:
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
        return at.timestamp() if at.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
