"""How the pod of an attempt ended: the words and the blame. Pure."""

from __future__ import annotations

import re
import signal
from typing import Final

import msgspec

from fusemld.executors.kubernetes.pod import FETCH, UNPACK
from fusemld.executors.kubernetes.statuses import FAILED, Pod, Terminated
from fusemld.executors.outputs import signal_name
from fusemld.model.run import Ending, Outcome


class Verdict(msgspec.Struct, frozen=True):
    """`at`: what brought the end about began then; a program that ended before ended by itself."""

    ending: Ending
    message: str = ""
    exit_status: int | None = None
    at: float | None = None
    may_be_kubelets: bool = False
    """It ended as kubelet ends programs, and kubelet says why once the whole pod has ended."""

    @property
    def outcome(self) -> Outcome:
        return Outcome(ending=self.ending, message=self.message, exit_status=self.exit_status)


_OWN_DISK_LIMIT: Final = re.compile(
    r"exceeds the total limit|exceeded its local ephemeral|EmptyDir volume .* exceeds"
)
_DISRUPTIONS: Final = {
    "PreemptionByScheduler": (Ending.PREEMPTED, "it had to make room for a more important pod"),
    "EvictionByEvictionAPI": (Ending.EVICTED, "it was evicted, as when a node is drained"),
    "DeletionByTaintManager": (Ending.NODE_LOST, "its node became unusable and it was deleted"),
    "DeletionByPodGC": (Ending.NODE_LOST, "its node does not exist any more"),
}
"""By reason of the condition DisruptionTarget."""
_FAILURES: Final = {
    "DeadlineExceeded": (Ending.TIMED_OUT, "it ran longer than it may"),
    "Evicted": (Ending.EVICTED, "its node evicted it"),
    "Preempting": (Ending.PREEMPTED, "its node needed the room for a critical pod"),
    "Terminated": (Ending.NODE_LOST, "its node was shut down"),
    "NodeShutdown": (Ending.NODE_LOST, "its node is being shut down"),
    "Shutdown": (Ending.NODE_LOST, "its node was shut down"),
    "NodeLost": (Ending.NODE_LOST, "its node does not answer"),
    "AppArmor": (Ending.MISCONFIGURED, "its node refused it"),
    "PodLevelResourcesNotSupported": (Ending.MISCONFIGURED, "its node refused it"),
}
"""By reason of a failed pod; another reason is that of a kubelet that had no place for it after all."""
_CANNOT_RUN: Final = frozenset({"StartError", "ContainerCannotRun", "RunContainerError"})
_GAVE_UP: Final = re.compile(r"context (canceled|deadline exceeded)(: unknown)?$")
"""Go's words for a call whose caller did not wait for it: kubelet was restarted, or had no more patience."""
_UNKNOWN: Final = frozenset({"ContainerStatusUnknown", "Unknown"})
"""Kubelet, and containerd after a restart of the host, say so of what they lost sight of."""


def of_pod(pod: Pod) -> Verdict | None:
    """What was done to the pod, whatever its program did; None if nothing was."""
    target = pod.conditions.get("DisruptionTarget")
    is_disrupted = target is not None and target.is_true
    if target is not None and is_disrupted and target.reason != "TerminationByKubelet":
        ending, words = _DISRUPTIONS.get(target.reason, (Ending.EVICTED, f"it was ended ({target.reason})"))
        return Verdict(ending, said(words, target.message), at=target.since)
    # What kubelet does has no time: it says so when all is over.
    if pod.phase == FAILED and pod.reason:
        if not is_disrupted and _OWN_DISK_LIMIT.search(pod.message):
            return Verdict(Ending.PROGRAM_FAILED, said("it used more disk than its limits allow", pod.message))
        refused = (Ending.EVICTED, f"its node refused it ({pod.reason})")
        ending, words = _FAILURES.get(pod.reason, refused)
        return Verdict(ending, said(words, pod.message))
    if target is not None and is_disrupted:
        return Verdict(Ending.EVICTED, said("its node ended it", target.message))
    ended = pod.step.terminated
    if pod.deadline_at is not None and ended is not None and (ended.finished_at or 0) >= pod.deadline_at:
        return Verdict(*_FAILURES["DeadlineExceeded"], at=pod.deadline_at)
    return None


def of_step(pod: Pod, ended: Terminated) -> Verdict | None:
    """What the step's program did, by the end of its container; None if nobody knows that."""
    if ended.reason in _UNKNOWN:
        return None
    if ended.exit_code == 0 and not ended.signal:
        return Verdict(Ending.SUCCEEDED, exit_status=0)
    if ended.reason == "OOMKilled":
        limit = f" of {pod.memory_limit}" if pod.memory_limit else ""
        words = f"it needed more memory than its limit{limit}" if limit else "memory had run out where it ran"
        return Verdict(Ending.OUT_OF_MEMORY, words)
    if _is_given_up(ended):
        return Verdict(Ending.LOST, said("its node gave up starting its container", ended.message))
    if ended.reason in _CANNOT_RUN:
        return Verdict(Ending.CANNOT_START, said("its container cannot be started", ended.message))
    number = ended.signal or ended.exit_code - 128
    if ended.signal or signal_name(number):
        how = "" if ended.signal else f" (exit status {ended.exit_code})"  # which the program may have chosen
        words = f"killed by {signal_name(number) or f'signal {number}'}{how}"
        return Verdict(Ending.SIGNALLED, words, may_be_kubelets=number in (signal.SIGTERM, signal.SIGKILL))
    return Verdict(Ending.PROGRAM_FAILED, f"exit status {ended.exit_code}", ended.exit_code)


def of_helper(pod: Pod) -> Verdict | None:
    """Of a container that had to end well before the step could start."""
    for helper in pod.helpers:
        ended = helper.terminated
        if ended is None or ended.exit_code == 0 or helper.name not in (UNPACK, FETCH):
            continue
        what = "its codesets cannot be unpacked" if helper.name == UNPACK else "its codesets cannot be fetched"
        if ended.reason == "OOMKilled":
            return Verdict(Ending.OUT_OF_MEMORY, f"{what}: they need more memory than the step's limit")
        if ended.reason in _UNKNOWN:
            continue
        if _is_given_up(ended):
            return Verdict(Ending.LOST, said(f"{what}: its node gave up starting their container", ended.message))
        return Verdict(Ending.CANNOT_START, said(what, ended.message.strip() or f"exit status {ended.exit_code}"))
    return None


def deleted(pod: Pod) -> Verdict | None:
    """Of a pod whose deletion somebody has asked for."""
    if pod.deleted_at is None:
        return None
    return Verdict(Ending.DELETED, "somebody deleted its pod", at=pod.deleted_at)


def stopped(pod: Pod) -> Verdict:
    """Of a pod that was told to stop by us."""
    ended = pod.step.terminated
    how = "was ended" if ended is None else f"ended {_how(ended)}"
    return Verdict(Ending.CANCELLED, f"it was told to stop and {how}", at=pod.deleted_at)


def _is_given_up(ended: Terminated) -> bool:
    return ended.reason in _CANNOT_RUN and _GAVE_UP.search(ended.message.strip()) is not None


def _how(ended: Terminated) -> str:
    number = ended.signal or ended.exit_code - 128
    return f"by {signal_name(number)}" if signal_name(number) else f"with exit status {ended.exit_code}"


def said(words: str, message: str) -> str:
    """Our words and those of somebody else, in one line."""
    return f"{words}: {' '.join(message.split())}" if message else words
