"""Why a pod has not started its step yet, in the words of scheduler, registry and kubelet. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from fusemld.executors.kubernetes.endings import said
from fusemld.executors.kubernetes.pod import FETCH, SIDECAR, UNPACK, is_sidecar
from fusemld.executors.kubernetes.settings import KubernetesSettings
from fusemld.executors.kubernetes.statuses import Container, Pod, Warned
from fusemld.model.run import Ending


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """As in the settings."""

    unschedulable_s: float = 3600.0
    image_pull_s: float = 300.0
    misconfigured_s: float = 60.0
    starting_s: float = 3600.0
    node_lost_after_s: float = 300.0

    @classmethod
    def of(cls, settings: KubernetesSettings) -> Patience:
        return cls(
            unschedulable_s=settings.unschedulable_s,
            image_pull_s=settings.image_pull_s,
            misconfigured_s=settings.misconfigured_s,
            starting_s=settings.starting_s,
            node_lost_after_s=settings.node_lost_after_s,
        )


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """`words` say what it waits for; it does so until `until` at the longest, and ends as `ending` then. `setting`
    is what that depends on, where something is wrong."""

    words: str
    ending: Ending
    until: float
    setting: str = ""


_IMAGE: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable",
     "SignatureValidationFailed"}
)  # fmt: skip
_ORDINARY: Final = frozenset({"", "ContainerCreating", "PodInitializing"})
_CONTAINER_EVENTS: Final = frozenset({"Failed", "InspectFailed", "ErrImageNeverPull"})
_VOLUME_EVENTS: Final = frozenset({"FailedMount", "FailedAttachVolume", "FailedMapVolume"})
_NODE_EVENTS: Final = frozenset({"FailedCreatePodSandBox", "NetworkNotReady", "FailedPrepareDynamicResources"})
_MISSING: Final = re.compile(r'(?:secret|configmap) "([^"]+)" not found')
_IMAGE_SETTINGS: Final = ("kubernetes.helper_image", "kubernetes.git_image")
"""Of any helper, and of the one that fetches."""
_HELPERS: Final = {
    UNPACK: "the container that unpacks its codesets",
    FETCH: "the container that fetches its codesets",
    SIDECAR: "the container that hands its outputs over",
}


def trouble(pod: Pod, warnings: Sequence[Warned], patience: Patience) -> Trouble:
    """What a pod waits for whose step has not started."""
    since = pod.created_at or 0.0
    scheduled = pod.conditions.get("PodScheduled")
    if not pod.node and (scheduled is None or not scheduled.is_true):
        return _unplaced(pod, since + patience.unschedulable_s)
    if pod.started_at is None and scheduled is not None and scheduled.since is not None:
        until = scheduled.since + patience.node_lost_after_s
        return Trouble(words=f"its node {pod.node} has not taken it yet", ending=Ending.NODE_LOST, until=until)
    since = pod.started_at or since
    for container in (*pod.helpers, pod.step):
        if container.terminated is not None or container.is_running or container.waiting in _ORDINARY:
            continue
        return _held_up(pod, container, since, warnings, patience)
    running = next((one for one in pod.helpers if one.is_running and one.name in (UNPACK, FETCH)), None)
    if running is not None:
        return _starting(f"{_HELPERS[running.name]} is at work on node {pod.node}", since, patience)
    if not pod.has("PodReadyToStartContainers") and not any(
        one.is_running or one.terminated for one in pod.helpers
    ):
        return _unprepared(pod, since, warnings, patience)
    return _starting(f"it is being started on node {pod.node}", since, patience)


def _unplaced(pod: Pod, until: float) -> Trouble:
    scheduled = pod.conditions.get("PodScheduled")
    if scheduled is None or not scheduled.reason:
        return Trouble(words="it waits for the scheduler", ending=Ending.UNSCHEDULABLE, until=until)
    is_gated = scheduled.reason == "SchedulingGated"
    words = said("held back by a scheduling gate" if is_gated else "unschedulable", scheduled.message)
    return Trouble(words=words, ending=Ending.UNSCHEDULABLE, until=until, setting="kubernetes.unschedulable_s")


def _helper(container: str) -> str | None:
    return _HELPERS.get(SIDECAR if is_sidecar(container) else container)


def _held_up(
    pod: Pod, container: Container, since: float, warnings: Sequence[Warned], patience: Patience
) -> Trouble:
    reason, words = container.waiting, container.message
    helper = _helper(container.name)
    whose = f" of {helper} ({_IMAGE_SETTINGS[container.name == FETCH]})" if helper else ""
    if reason == "InvalidImageName":
        return Trouble(
            words=said(f"image{whose} has an invalid name", words), ending=Ending.IMAGE_UNAVAILABLE, until=since
        )
    if reason in _IMAGE:
        told = _events(warnings, _CONTAINER_EVENTS, lambda one: "image" in one.message)
        # Older kubelets say only "Back-off pulling image" here, and the registry's words in the event.
        if reason == "ImagePullBackOff" and "ErrImagePull" not in words:
            words = next(
                (one.message for one in reversed(told) if one.message.startswith("Failed to pull")), words
            )
        return Trouble(
            words=said(f"image{whose} cannot be pulled", words or reason),
            ending=Ending.IMAGE_UNAVAILABLE,
            until=_began(told, since) + patience.image_pull_s,
            setting="kubernetes.image_pull_s",
        )
    told = _events(
        warnings, _CONTAINER_EVENTS, lambda one: one.message.startswith("Error:") and "Image" not in one.message
    )
    return Trouble(
        words=said(f"{helper or 'its container'} cannot be made ({reason})", words),
        ending=_blamed(words, pod),
        until=_began(told, since) + patience.misconfigured_s,
        setting="kubernetes.misconfigured_s",
    )


def _unprepared(pod: Pod, since: float, warnings: Sequence[Warned], patience: Patience) -> Trouble:
    """Volumes and network come before the first container. Only events tell about them."""
    volumes = _events(warnings, _VOLUME_EVENTS)
    network = _events(warnings, _NODE_EVENTS)
    if volumes:
        return Trouble(
            words=said("a volume cannot be mounted", volumes[-1].message),
            ending=_blamed(volumes[-1].message, pod),
            until=_began(volumes, since) + patience.misconfigured_s,
            setting="kubernetes.misconfigured_s",
        )
    if network:
        return Trouble(
            words=said(f"its node {pod.node} cannot start it", network[-1].message),
            ending=Ending.NODE_LOST,
            until=_began(network, since) + patience.node_lost_after_s,
            setting="kubernetes.node_lost_after_s",
        )
    return _starting(f"it is being started on node {pod.node}", since, patience)


def _blamed(words: str, pod: Pod) -> Ending:
    """What was made for the pod was there when it was created: somebody else has removed it."""
    missing = _MISSING.search(words)
    return Ending.DELETED if missing is not None and missing[1] in pod.own else Ending.MISCONFIGURED


def _starting(words: str, since: float, patience: Patience) -> Trouble:
    """An ordinary wait. Nobody says of a pod that has not started its step that its node is silent, and where all
    nodes are nothing is evicted."""
    return Trouble(words=words, ending=Ending.NODE_LOST, until=since + patience.starting_s)


def _events(
    warnings: Sequence[Warned], reasons: frozenset[str], counts: Callable[[Warned], bool] = lambda _: True
) -> list[Warned]:
    return [one for one in warnings if one.reason in reasons and counts(one)]


def _began(told: Sequence[Warned], otherwise: float) -> float:
    return min((one.first_at for one in told if one.first_at is not None), default=otherwise)
