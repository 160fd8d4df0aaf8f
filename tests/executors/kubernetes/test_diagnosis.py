"""The pods of `recorded_pods.json` are what a real API server said of pods on a real node (Kubernetes 1.36)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemld.executors.kubernetes.diagnosis import Diagnosis, Patience, Phase, diagnose
from fusemld.hooks.clusters import Json
from fusemld.model.run import NOBODYS_FAULT, Ending

RECORDED: dict[str, Json] = msgspec.json.decode(Path(__file__).with_name("recorded_pods.json").read_bytes())
PATIENCE = Patience(
    unschedulable_s=3600, image_pull_s=300, misconfigured_s=60, starting_s=600, node_lost_after_s=120
)
LATER = 10**10


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def begun(pod: Json) -> float:
    return at(pod["metadata"]["creationTimestamp"])


def recorded(tag: str, now: float | None = None, **more: bool) -> Diagnosis:
    """Of a recorded pod; `now` is in seconds after it was created."""
    found = RECORDED[tag]
    pod, last = (None, found["pod"]) if found["gone"] else (found["pod"], None)
    moment = begun(found["pod"]) + (60 if now is None else now)
    return diagnose(pod, last, found["events"], moment, PATIENCE, **more)


def changed(tag: str, *, conditions: Sequence[Json] = (), step: Json | None = None, **status: object) -> Json:
    """A recorded pod with another status."""
    pod: Json = copy.deepcopy(RECORDED[tag]["pod"])
    pod["status"] |= status
    pod["status"]["conditions"] += conditions
    if step is not None:
        pod["status"]["containerStatuses"][0]["state"] = step
    return pod


def disrupted(reason: str, when: str = "2026-11-23T11:30:00Z", message: str = "words") -> Json:
    return {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": when,
    }


def ended(code: int, when: str = "2026-11-23T11:50:00Z", reason: str = "Error", message: str = "") -> Json:
    state = {"exitCode": code, "reason": reason, "message": message, "startedAt": when, "finishedAt": when}
    return {"terminated": state}


def deleting(pod: Json, *, grace_s: int, until: str) -> Json:
    return pod | {
        "metadata": pod["metadata"] | {"deletionTimestamp": until, "deletionGracePeriodSeconds": grace_s}
    }


# How attempts end


@pytest.mark.parametrize(
    ("tag", "ending", "words"),
    [
        ("exit_0", Ending.SUCCEEDED, ""),
        ("small_ok", Ending.SUCCEEDED, ""),
        ("exit_3", Ending.PROGRAM_FAILED, "exit status 3"),
        ("sigsegv", Ending.SIGNALLED, "killed by SIGSEGV"),
        ("sigkill", Ending.SIGNALLED, "killed by SIGKILL"),
        ("sigterm_self_sidecar", Ending.SIGNALLED, "killed by SIGTERM"),
        ("oom", Ending.OUT_OF_MEMORY, "it needed more memory than its limit of 40Mi"),
        ("oom_child", Ending.OUT_OF_MEMORY, "it needed more memory than its limit of 40Mi"),
        ("bad_command", Ending.CANNOT_START, "/no/such/program: no such file or directory"),
        ("bad_workdir_file", Ending.CANNOT_START, "mkdir /etc/passwd: not a directory"),
        ("bad_bundle", Ending.CANNOT_START, "its codesets cannot be unpacked: cannot unpack codeset p/n"),
        ("bad_image_name", Ending.IMAGE_UNAVAILABLE, "repository name (A/Valid) must be lowercase"),
        ("disk_limit", Ending.PROGRAM_FAILED, "exceeds the total limit of containers 10Mi"),
        ("deadline", Ending.TIMED_OUT, "active on the node longer than the specified deadline"),
        ("node_name_refused", Ending.EVICTED, "its node refused it (OutOfcpu): Pod was rejected"),
        ("evicted_api", Ending.EVICTED, "it was evicted, as when a node is drained"),
        ("preempted", Ending.PREEMPTED, "preempting to accommodate a higher priority pod"),
        ("deleted_running", Ending.DELETED, "somebody deleted its pod"),
        ("deleted_running_hard", Ending.DELETED, "somebody deleted its pod"),
        ("deleted_after_end", Ending.LOST, "it ended well, but its pod is gone, and its outputs with it"),
    ],
)
def test_a_recorded_end_is_told_for_what_it_is(tag: str, ending: Ending, words: str) -> None:
    found = recorded(tag)

    assert found.phase is Phase.OVER
    assert found.outcome is not None
    assert found.outcome.ending is ending
    assert words in found.outcome.message


def by_kubelet(reason: str, message: str) -> Json:
    """Kubelet ended the step, and says so when all is over."""
    target = disrupted("TerminationByKubelet", "2026-11-23T11:59:00Z")
    return changed("sigkill", phase="Failed", reason=reason, message=message, conditions=[target])


def failed(code: int | None = None, *, why: str = "Error", target: Json | None = None, **status: object) -> Json:
    """A pod that was running and failed; without `code` the last word about its container is that it runs."""
    step = None if code is None else ended(code, reason=why)
    return changed("running", phase="Failed", step=step, conditions=[target] if target else [], **status)


@pytest.mark.parametrize(
    ("pod", "ending", "words"),
    [
        (by_kubelet("Evicted", "The node was low on resource"), Ending.EVICTED, "evicted it: The node was low"),
        (by_kubelet("Preempting", "Preempted in order to"), Ending.PREEMPTED, "Preempted in order to"),
        (by_kubelet("Terminated", "imminent node shutdown"), Ending.NODE_LOST, "its node was shut down: imminent"),
        (failed(reason="NodeLost", message="Node n is unresponsive"), Ending.NODE_LOST, "Node n is unresponsive"),
        (failed(reason="AppArmor", message="Pod was rejected: x"), Ending.MISCONFIGURED, "Pod was rejected: x"),
        (failed(target=disrupted("DeletionByPodGC")), Ending.NODE_LOST, "its node does not exist any more: words"),
        (failed(137, target=disrupted("DeletionByTaintManager")), Ending.NODE_LOST, "its node became unusable"),
        (failed(137, target=disrupted("SomethingNew")), Ending.EVICTED, "it was ended (SomethingNew): words"),
        (failed(137, why="ContainerStatusUnknown"), Ending.LOST, "nobody can tell how"),
        (failed(255, why="Unknown"), Ending.LOST, "nobody can tell how"),
        (failed(), Ending.LOST, "nobody can tell how"),
        (failed(137, why="OOMKilled"), Ending.OUT_OF_MEMORY, "memory had run out"),
        (failed(137, why="OOMKilled", target=disrupted("SomethingNew")), Ending.OUT_OF_MEMORY, "memory"),
        (failed(200), Ending.PROGRAM_FAILED, "exit status 200"),
        (failed(3, target=disrupted("X", "2026-11-23T23:00:00Z")), Ending.PROGRAM_FAILED, "exit status 3"),
        (changed("running", phase="Succeeded", step=ended(0, reason="OOMKilled")), Ending.SUCCEEDED, ""),
    ],
)
def test_an_end_as_kubernetes_documents_it_is_told_for_what_it_is(pod: Json, ending: Ending, words: str) -> None:
    found = diagnose(pod, None, [], begun(pod), PATIENCE)

    assert found.phase is Phase.OVER
    assert found.outcome is not None
    assert (found.outcome.ending, words in found.outcome.message) == (ending, True), found


def test_what_an_out_of_memory_helper_failed_at_is_said() -> None:
    pod = copy.deepcopy(RECORDED["bad_bundle"]["pod"])
    pod["status"]["initContainerStatuses"][0]["state"] = ended(137, reason="OOMKilled")

    outcome = diagnose(pod, None, [], 0, PATIENCE).outcome

    assert outcome is not None
    assert (outcome.ending, "codesets cannot be unpacked" in outcome.message) == (Ending.OUT_OF_MEMORY, True)


def test_a_pod_that_is_gone_and_was_never_seen_is_lost() -> None:
    outcome = diagnose(None, None, [], 0, PATIENCE).outcome

    assert outcome is not None
    assert outcome.ending is Ending.LOST


@pytest.mark.parametrize("tag", ["running", "no_secret", "unschedulable"])
def test_a_pod_that_vanished_before_its_end_was_deleted(tag: str) -> None:
    outcome = diagnose(None, RECORDED[tag]["pod"], [], 0, PATIENCE).outcome

    assert outcome is not None
    assert outcome.ending is Ending.DELETED


@pytest.mark.parametrize("tag", ["exit_3", "oom", "exit_0", "small_ok"])
def test_what_is_known_of_a_pod_stays_known_when_it_is_gone(tag: str) -> None:
    pod = RECORDED[tag]["pod"]

    assert diagnose(None, pod, [], 0, PATIENCE).outcome == recorded(tag).outcome


def test_an_end_by_itself_before_the_deletion_counts() -> None:
    pod = deleting(changed("exit_3"), grace_s=30, until="2026-11-23T13:00:00Z")

    outcome = diagnose(None, pod, [], 0, PATIENCE).outcome

    assert outcome is not None
    assert outcome.ending is Ending.PROGRAM_FAILED


@pytest.mark.parametrize("tag", ["exit_0", "exit_3", "step_ended"])
def test_an_end_by_itself_counts_as_long_as_our_wish_has_not_come_to_the_pod(tag: str) -> None:
    assert recorded(tag, stopping=True).outcome == recorded(tag).outcome


NEVER = float("-inf")


@pytest.mark.parametrize(
    ("tag", "setting"),
    [
        ("unschedulable", "kubernetes.unschedulable_s"),
        ("gated", "kubernetes.unschedulable_s"),
        ("no_image_pull", "kubernetes.image_pull_s"),
        ("no_image_backoff", "kubernetes.image_pull_s"),
        ("no_secret", "kubernetes.misconfigured_s"),
        ("no_config_map", "kubernetes.misconfigured_s"),
        ("unpack_running", ""),
        ("silent", ""),
        ("deleted_terminating", ""),
    ],
)
def test_what_only_time_ends_does_not_end_while_nobody_can_see_it(tag: str, setting: str) -> None:
    """And where something is wrong, it is said which setting is patient with it."""
    found = RECORDED[tag]

    late, unseen = (diagnose(found["pod"], None, found["events"], now, PATIENCE) for now in (LATER, NEVER))

    assert late.outcome is not None
    assert unseen.outcome is None
    assert unseen.check_again_at is not None
    assert unseen.setting == setting


@pytest.mark.parametrize("code", [0, 1, 137, 143])
def test_an_end_in_the_second_of_the_deletion_or_after_is_by_the_deletion(code: int) -> None:
    pod = deleting(changed("running", step=ended(code)), grace_s=30, until="2026-11-23T11:50:30Z")

    outcome = diagnose(pod, None, [], at("2026-11-23T11:50:01Z"), PATIENCE).outcome

    assert outcome is not None
    assert outcome.ending is Ending.DELETED


@pytest.mark.parametrize("tag", ["deleted_running", "deleted_running_hard"])
def test_what_we_deleted_was_cancelled(tag: str) -> None:
    outcome = recorded(tag, stopping=True).outcome

    assert outcome is not None
    assert outcome.ending is Ending.CANCELLED
    assert "it was told to stop and ended" in outcome.message


# While it lasts


@pytest.mark.parametrize(
    ("tag", "note"),
    [
        ("unschedulable", "unschedulable: 0/1 nodes are available: 1 Insufficient cpu."),
        ("gated", "held back by a scheduling gate: Scheduling is blocked due to non-empty scheduling gates"),
        ("no_image_never", 'image cannot be pulled: Container image "localhost/nothing:1" is not present'),
        ("no_image_pull", "connect: connection refused"),
        ("no_image_backoff", "connect: connection refused"),
        ("no_secret", 'cannot be made (CreateContainerConfigError): secret "the-pod" not found'),
        ("run_as_nonroot", "container has runAsNonRoot and image will run as root"),
        ("no_config_map", 'a volume cannot be mounted: MountVolume.SetUp failed for volume "bundles" : configmap'),
        ("unpack_running", "the container that unpacks its codesets is at work"),
    ],
)
def test_what_a_pod_waits_for_is_said_in_the_words_of_who_knows(tag: str, note: str) -> None:
    found = recorded(tag, now=1)

    assert (found.phase, found.outcome) == (Phase.WAITING, None)
    assert note in found.note


@pytest.mark.parametrize(
    ("tag", "ending", "after_s"),
    [
        ("unschedulable", Ending.UNSCHEDULABLE, 3600),
        ("gated", Ending.UNSCHEDULABLE, 3600),
        ("no_image_never", Ending.IMAGE_UNAVAILABLE, 300),
        ("no_image_backoff", Ending.IMAGE_UNAVAILABLE, 300),
        ("no_secret", Ending.MISCONFIGURED, 60),
        ("run_as_nonroot", Ending.MISCONFIGURED, 60),
        ("no_config_map", Ending.MISCONFIGURED, 60),
        ("unpack_running", Ending.NODE_LOST, 600),
    ],
)
def test_patience_ends_at_the_moment_that_was_said_before(tag: str, ending: Ending, after_s: float) -> None:
    begin = begun(RECORDED[tag]["pod"])
    again_at = recorded(tag, now=1).check_again_at
    assert again_at is not None
    assert after_s <= again_at - begin <= after_s + 5

    before, then = recorded(tag, now=again_at - begin - 1), recorded(tag, now=again_at - begin)

    assert (before.phase, then.phase) == (Phase.WAITING, Phase.OVER)
    assert then.outcome is not None
    assert (then.outcome.ending, then.outcome.message) == (ending, before.note)


@pytest.mark.parametrize("tag", ["no_secret", "no_config_map"])
@pytest.mark.parametrize("is_own", [True, False])
def test_what_was_made_for_a_pod_and_is_not_there_was_removed_by_somebody(tag: str, is_own: bool) -> None:
    own = {"no_secret": "the-pod", "no_config_map": "fusemld-codeset-e58eqrqa4o1785cfc3bc6ac773-0"}
    pod = changed(tag)
    if is_own and tag == "no_secret":
        pod["metadata"]["name"] = own[tag]
    elif is_own:
        sources = [{"configMap": {"name": own[tag]}}]
        pod["spec"]["volumes"] = [{"name": "bundles", "projected": {"sources": sources}}]

    outcome = diagnose(pod, None, RECORDED[tag]["events"], LATER, PATIENCE).outcome

    assert outcome is not None
    assert outcome.ending is (Ending.DELETED if is_own else Ending.MISCONFIGURED)
    assert "not found" in outcome.message


def test_the_patience_with_an_image_begins_when_it_first_failed() -> None:
    pod, failed_at = RECORDED["no_image_pull"]["pod"], "2026-11-23T12:33:00Z"
    event = {
        "type": "Warning",
        "reason": "Failed",
        "message": "Failed to pull image x",
        "firstTimestamp": failed_at,
    }

    found = diagnose(pod, None, [event], at(failed_at), PATIENCE)

    assert found.check_again_at == at(failed_at) + PATIENCE.image_pull_s


def test_an_older_kubelet_tells_only_events_why_an_image_cannot_be_pulled() -> None:
    pod = changed(
        "no_image_backoff", step={"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling x"}}
    )

    found = diagnose(pod, None, RECORDED["no_image_backoff"]["events"], begun(pod), PATIENCE)

    assert "connection refused" in found.note


def test_a_node_that_cannot_make_a_network_is_not_the_fault_of_the_step() -> None:
    pod = RECORDED["no_config_map"]["pod"]
    event = {"type": "Warning", "reason": "FailedCreatePodSandBox", "message": "plugin type=bridge failed"}

    first = diagnose(pod, None, [event], begun(pod), PATIENCE)
    then = diagnose(pod, None, [event], LATER, PATIENCE)

    assert first.note == "its node node-1 cannot start it: plugin type=bridge failed"
    assert then.outcome is not None
    assert then.outcome.ending in NOBODYS_FAULT


def test_a_node_that_does_not_take_its_pod_is_lost() -> None:
    pod = copy.deepcopy(RECORDED["no_secret"]["pod"])
    placed = next(one for one in pod["status"]["conditions"] if one["type"] == "PodScheduled")
    pod["status"] = {"phase": "Pending", "conditions": [placed]}
    lost_at = at(placed["lastTransitionTime"]) + PATIENCE.node_lost_after_s

    before, then = (diagnose(pod, None, [], moment, PATIENCE) for moment in (lost_at - 1, lost_at))

    assert (before.note, before.check_again_at) == ("its node node-1 has not taken it yet", lost_at)
    assert then.outcome is not None
    assert then.outcome.ending is Ending.NODE_LOST


@pytest.mark.parametrize("why", ["canceled", "deadline exceeded: unknown"])
@pytest.mark.parametrize(
    ("tag", "statuses"), [("bad_command", "containerStatuses"), ("bad_bundle", "initContainerStatuses")]
)
def test_a_container_whose_start_the_node_gave_up_is_nobodys_fault(tag: str, statuses: str, why: str) -> None:
    """As when kubelet is restarted meanwhile."""
    pod = copy.deepcopy(RECORDED[tag]["pod"])
    words = f'failed to start containerd task "cea38b12": context {why}'
    pod["status"][statuses][0]["state"] = ended(128, reason="StartError", message=words)

    outcome = diagnose(pod, None, [], 0, PATIENCE).outcome

    assert outcome is not None
    assert outcome.ending in NOBODYS_FAULT
    assert words in outcome.message


def test_words_of_others_are_told_in_one_line() -> None:
    pod = copy.deepcopy(RECORDED["bad_bundle"]["pod"])
    pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["message"] = "remote: no\nfatal: never\n"

    outcome = diagnose(pod, None, [], 0, PATIENCE).outcome

    assert outcome is not None
    assert outcome.message == "its codesets cannot be unpacked: remote: no fatal: never"


def test_trouble_that_is_over_is_not_held_against_a_pod() -> None:
    sandbox = {"type": "PodReadyToStartContainers", "status": "True"}
    pod = changed("no_config_map", conditions=[sandbox])

    found = diagnose(pod, None, RECORDED["no_config_map"]["events"], LATER, PATIENCE)

    assert (found.phase, found.note) == (Phase.OVER, "")
    assert found.outcome is not None
    assert found.outcome.message == "it is being started on node node-1"


def test_a_running_step_says_since_when() -> None:
    found = recorded("running")

    assert (found.phase, found.note, found.outcome, found.check_again_at) == (Phase.RUNNING, "", None, None)
    assert found.started_at is not None
    assert found.ended_at is None


def test_the_end_of_the_step_is_known_before_the_end_of_its_pod() -> None:
    found = recorded("step_ended")

    assert found.phase is Phase.STEP_ENDED
    assert found.outcome is not None
    assert (found.outcome.ending, found.outcome.exit_status) == (Ending.PROGRAM_FAILED, 4)
    assert found.ended_at is not None


@pytest.mark.parametrize("code", [137, 143])
def test_a_signal_that_kubelet_may_have_sent_is_not_judged_before_the_pod_has_ended(code: int) -> None:
    pod = changed("step_ended", step=ended(code))
    until = at("2026-11-23T11:50:00Z") + PATIENCE.node_lost_after_s

    before, then = (diagnose(pod, None, [], moment, PATIENCE) for moment in (until - 1, until))

    assert (before.phase, before.outcome, before.check_again_at) == (Phase.STEP_ENDED, None, until)
    assert "its node has not said yet" in before.note
    assert then.outcome is not None
    assert then.outcome.ending is Ending.SIGNALLED


def test_a_silent_node_is_lost_after_a_while() -> None:
    silent_since = next(one for one in RECORDED["silent"]["pod"]["status"]["conditions"] if one["type"] == "Ready")
    lost_at = at(silent_since["lastTransitionTime"]) + PATIENCE.node_lost_after_s
    pod = RECORDED["silent"]["pod"]

    before, then = (diagnose(pod, None, [], moment, PATIENCE) for moment in (lost_at - 1, lost_at))

    assert (before.phase, before.note, before.check_again_at) == (
        Phase.RUNNING,
        "no word from its node node-1",
        lost_at,
    )
    assert then.phase is Phase.OVER
    assert then.outcome is not None
    assert then.outcome.ending is Ending.NODE_LOST
    assert "it may still be running there" in then.outcome.message


@pytest.mark.parametrize(("stopping", "ending"), [(False, Ending.NODE_LOST), (True, Ending.CANCELLED)])
def test_a_deletion_that_does_not_end_is_given_up(stopping: bool, ending: Ending) -> None:
    pod = RECORDED["deleted_terminating"]["pod"]
    overdue = at(pod["metadata"]["deletionTimestamp"]) + PATIENCE.node_lost_after_s

    before, then = (
        diagnose(pod, None, [], moment, PATIENCE, stopping=stopping) for moment in (overdue - 1, overdue)
    )

    assert (before.phase, before.outcome, before.check_again_at) == (Phase.RUNNING, None, overdue)
    assert "is being deleted" in before.note
    assert then.phase is Phase.OVER
    assert then.outcome is not None
    assert then.outcome.ending is ending


def test_a_deletion_on_a_node_that_was_silent_before_is_waited_for_no_longer_than_the_node() -> None:
    """It is evicted when it counts as lost, and that is waited for once."""
    silent = RECORDED["silent"]["pod"]
    since = next(one for one in silent["status"]["conditions"] if one["type"] == "Ready")["lastTransitionTime"]
    lost_at = at(since) + PATIENCE.node_lost_after_s
    pod = deleting(silent, grace_s=30, until=datetime.fromtimestamp(lost_at + 30, UTC).isoformat())

    before, then = (diagnose(pod, None, [], moment, PATIENCE) for moment in (lost_at - 1, lost_at))

    assert (before.outcome, before.check_again_at) == (None, lost_at)
    assert then.outcome is not None
    assert then.outcome.ending is Ending.NODE_LOST


def test_a_pod_that_lacks_what_somebody_made_a_condition_of_its_readiness_is_not_on_a_silent_node() -> None:
    pod = copy.deepcopy(RECORDED["silent"]["pod"])
    ready = next(one for one in pod["status"]["conditions"] if one["type"] == "Ready")
    ready["reason"] = "ReadinessGatesNotReady"

    found = diagnose(pod, None, [], LATER, PATIENCE)

    assert (found.phase, found.note, found.check_again_at) == (Phase.RUNNING, "", None)


# Whatever is said

WORDS = st.sampled_from(
    ["metadata", "spec", "status", "conditions", "containerStatuses", "initContainerStatuses", "state", "waiting",
     "running", "terminated", "reason", "message", "type", "name", "step", "unpack", "results", "phase", "Failed",
     "Running", "deletionTimestamp", "deletionGracePeriodSeconds", "2026-11-23T11:30:00Z", "9999-12-31T23:59:59Z",
     "exitCode", "signal", "annotations", "fusemld.io/outputs", "[]", "containers", "terminationMessagePath"]
)  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=20,
)


@st.composite
def spoiled(draw: st.DrawFn) -> Json:
    """A recorded pod, or an event's worth of nonsense in its place: one value somewhere is another."""
    pod = copy.deepcopy(RECORDED[draw(st.sampled_from(sorted(RECORDED)))]["pod"])
    place: Any = pod
    while True:
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or draw(st.booleans()):
            place[key] = draw(ANYTHING)
            found: Json = pod
            return found
        place = inner


@given(
    spoiled() | st.dictionaries(WORDS, ANYTHING),
    st.lists(st.dictionaries(WORDS, ANYTHING), max_size=2),
    st.booleans(),
)
def test_whatever_the_server_says_is_judged(pod: Json, events: list[Json], stopping: bool) -> None:
    for found in (
        diagnose(pod, None, events, LATER, PATIENCE, stopping=stopping),
        diagnose(None, pod, events, LATER, PATIENCE, stopping=stopping),
    ):
        assert found.phase is not Phase.OVER or found.outcome is not None


@given(spoiled(), st.integers(0, 10_000))
def test_time_alone_changes_nothing_before_the_moment_that_was_said(pod: Json, now_s: int) -> None:
    now = at("2026-11-23T11:30:00Z") + now_s
    first = diagnose(pod, None, [], now, PATIENCE)
    if first.check_again_at is None or first.check_again_at <= now:
        return

    later = diagnose(pod, None, [], min(first.check_again_at - 1e-3, now + 1e6), PATIENCE)

    assert (later.phase, later.outcome) == (first.phase, first.outcome)
