"""From what a cluster says about a pod to what became of the attempt, in words for its user. Pure.

Reasons and shapes are those of kubelet, scheduler and controllers (Kubernetes 1.29 to 1.36).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final

import msgspec

from fusemld.executors.kubernetes import endings, waiting
from fusemld.executors.kubernetes.endings import Verdict
from fusemld.executors.kubernetes.statuses import Pod, Terminated, read_pod, read_warnings
from fusemld.executors.kubernetes.waiting import Patience
from fusemld.hooks.clusters import Json
from fusemld.model.run import Ending, Outcome

__all__ = ["Diagnosis", "Patience", "Phase", "diagnose"]


class Phase(enum.StrEnum):
    """`step_ended`: the step's container has terminated, the pod has not yet."""

    WAITING = "waiting"
    RUNNING = "running"
    STEP_ENDED = "step_ended"
    OVER = "over"


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """`note` tells a person what the attempt waits for. `outcome` is set from `step_ended` on, where it
    may come a moment later; a success still needs its outputs. `check_again_at` is when time alone may change the
    verdict, and `setting` what that depends on where the wait is not an ordinary one. Times are those of the
    cluster's clocks."""

    phase: Phase
    note: str = ""
    outcome: Outcome | None = None
    started_at: float | None = None
    ended_at: float | None = None
    check_again_at: float | None = None
    setting: str = ""


def diagnose(
    pod: Json | None,
    last: Json | None,
    events: Sequence[Json],
    now: float,
    patience: Patience,
    *,
    stopping: bool = False,
) -> Diagnosis:
    """Judge an attempt by its pod (None: it is gone, and `last` is how it was last seen, if it was) and the events
    about it. `stopping`: we asked for its end. `now` is minus infinity while time alone means nothing: nobody can
    tell then what has happened since."""
    if pod is None:
        return _gone(last, stopping)
    seen = read_pod(pod)
    verdict = _verdict(seen, stopping)
    if seen.is_terminal:
        return _told(seen, Phase.OVER, verdict or _UNKNOWN)
    if seen.gone_by is not None:
        return _deleting(seen, verdict, now, patience, stopping)
    if seen.step.terminated is not None:
        return _ended(seen, seen.step.terminated, verdict or _UNKNOWN, now, patience)
    if seen.step.is_running:
        return _running(seen, now, patience)
    trouble = waiting.trouble(seen, read_warnings(events), patience)
    if now >= trouble.until:
        outcome = Outcome(ending=trouble.ending, message=trouble.words)
        return Diagnosis(phase=Phase.OVER, outcome=outcome)
    return Diagnosis(
        phase=Phase.WAITING, note=trouble.words, check_again_at=trouble.until, setting=trouble.setting
    )


_UNKNOWN: Final = Verdict(Ending.LOST, "its pod has ended and nobody can tell how")


def _verdict(seen: Pod, stopping: bool) -> Verdict | None:
    """The program's own end, if it came before anything that was done to the pod."""
    ended = seen.step.terminated
    own = endings.of_helper(seen) if ended is None else endings.of_step(seen, ended)
    done = endings.of_pod(seen) or endings.deleted(seen)
    if stopping:
        if own is not None and ended is not None and seen.deleted_at is None:
            return own  # before our wish came to it
        done = endings.stopped(seen)
    if own is None or done is None:
        return own or done
    ended_before = ended is not None and done.at is not None and (ended.finished_at or done.at) < done.at
    return own if ended_before or own.ending is Ending.OUT_OF_MEMORY else done


def _ended(seen: Pod, ended: Terminated, verdict: Verdict, now: float, patience: Patience) -> Diagnosis:
    """Its program has ended and its pod has not. Why kubelet has ended it is not said where its node is gone."""
    if not verdict.may_be_kubelets or ended.finished_at is None:
        return _told(seen, Phase.STEP_ENDED, verdict)
    until = ended.finished_at + patience.node_lost_after_s
    if now >= until:
        return _told(seen, Phase.STEP_ENDED, verdict)
    note = f"{verdict.message}; its node has not said yet whether that was its doing"
    return _told(seen, Phase.STEP_ENDED, None, note=note, check_again_at=until)


def _told(seen: Pod, phase: Phase, verdict: Verdict | None, **more: float | str | None) -> Diagnosis:
    ended = seen.step.terminated
    return msgspec.structs.replace(
        Diagnosis(
            phase=phase,
            outcome=None if verdict is None else verdict.outcome,
            started_at=seen.step.running_since if ended is None else ended.started_at,
            ended_at=None if ended is None else ended.finished_at,
        ),
        **more,
    )


def _gone(last: Json | None, stopping: bool) -> Diagnosis:
    if last is None:
        verdict = Verdict(Ending.CANCELLED if stopping else Ending.LOST, "its pod is gone, and nobody saw it end")
        return Diagnosis(phase=Phase.OVER, outcome=verdict.outcome)
    seen = read_pod(last)
    verdict = _verdict(seen, stopping) or Verdict(Ending.DELETED, "its pod was deleted")
    if verdict.ending is Ending.SUCCEEDED and seen.has_sidecar:
        verdict = Verdict(Ending.LOST, "it ended well, but its pod is gone, and its outputs with it", 0)
    return _told(seen, Phase.OVER, verdict)


def _deleting(seen: Pod, verdict: Verdict | None, now: float, patience: Patience, stopping: bool) -> Diagnosis:
    """Its deletion was asked for. It is over once it is gone, or when its node has been silent for too long."""
    overdue = (seen.gone_by or now) + patience.node_lost_after_s
    if seen.silent_since is not None:
        overdue = min(overdue, seen.silent_since + patience.node_lost_after_s)
    ended = seen.step.terminated is not None
    if now >= overdue:
        if not ended or (verdict is not None and verdict.ending is Ending.SUCCEEDED and seen.has_sidecar):
            where = f"no word from its node {seen.node} since it was to be deleted"
            risk = "" if ended else "; it may still be running there"
            ending = Ending.CANCELLED if stopping else Ending.NODE_LOST
            verdict = Verdict(ending, where + risk)
        return _told(seen, Phase.OVER, verdict or _UNKNOWN)
    if ended:
        return _told(seen, Phase.STEP_ENDED, verdict, check_again_at=overdue)
    phase = Phase.RUNNING if seen.step.is_running else Phase.WAITING
    words = "" if verdict is None else f"its pod is being deleted: {verdict.message}"
    return _told(seen, phase, None, note=words, check_again_at=overdue)


def _running(seen: Pod, now: float, patience: Patience) -> Diagnosis:
    if seen.silent_since is None:
        return _told(seen, Phase.RUNNING, None)
    lost_at = seen.silent_since + patience.node_lost_after_s
    if now >= lost_at:
        words = (
            f"no word from its node {seen.node} for {now - seen.silent_since:.0f} s; it may still be running there"
        )
        return _told(seen, Phase.OVER, Verdict(Ending.NODE_LOST, words))
    return _told(seen, Phase.RUNNING, None, note=f"no word from its node {seen.node}", check_again_at=lost_at)
