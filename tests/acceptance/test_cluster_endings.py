"""Every ending of a pod is told apart, in words that help, and what is nobody's fault is repeated."""

from __future__ import annotations

import time

import pytest

from tests.acceptance.pods import Gate, PodDaemon, attempts_of, bash, endings, gate_on, log, workflow
from tests.cluster.images import BASE

pytestmark = [pytest.mark.acceptance, pytest.mark.cluster]

NOWHERE = "registry.invalid/no/such:1"


def test_each_way_to_fail_has_its_own_ending_and_message(pods: PodDaemon) -> None:
    limits = "resources: {limits: {memory: 48Mi}}"
    eats = "python3 -c '[bytearray(1 << 20) for _ in range(1000)]'"
    steps = {
        "fails": bash("fails", "echo broken; exit 3", "needs: []"),
        "dies": bash("dies", "sh -c 'kill -9 $$' || exit $?", "needs: []"),
        "eats": bash("eats", eats, "needs: []", limits),
        "forgets": bash("forgets", "true", "needs: []", "outputs: [{name: out}]"),
        "unknown": f"  - name: unknown\n    image: {BASE}\n    needs: []\n    command: [/no/such/program]\n",
    }
    pods.start()

    run = pods.finish("fails.yaml", workflow("fails", *steps.values()))

    found = {name: attempts_of(run, name)[-1] for name in steps}
    assert {name: attempt["ending"] for name, attempt in found.items()} == {
        "fails": "program failed",
        "dies": "killed by a signal",
        "eats": "out of memory",
        "forgets": "output missing",
        "unknown": "cannot start",
    }
    assert all(len(attempts_of(run, name)) == 1 for name in steps)
    assert (found["fails"]["exit_status"], found["fails"]["tail"]) == (3, "broken")
    assert "SIGKILL" in found["dies"]["message"]
    assert "48Mi" in found["eats"]["message"]
    assert "/tekton/results/out" in found["forgets"]["message"]
    assert "/no/such/program" in found["unknown"]["message"]
    pods.assert_nothing_left()


def test_a_pod_that_cannot_begin_says_why_while_it_waits_and_ends_after_the_patience_of_the_settings(
    pods: PodDaemon,
) -> None:
    daemon = pods.daemon
    steps = (
        bash("large", "true", "needs: []", "resources: {requests: {cpu: '1000'}}"),
        bash("nowhere", "true", "needs: []", image=NOWHERE),
    )
    pods.start(KUBERNETES_UNSCHEDULABLE_S="12", KUBERNETES_IMAGE_PULL_S="12")
    daemon.drop("waits.yaml", workflow("waits", *steps))
    run = daemon.run_of("waits.yaml")

    def why() -> str:
        text = " ".join(daemon.run("fuseml", "why", run).stdout.split())
        return text if "Insufficient cpu" in text and NOWHERE in text else ""

    daemon.wait_for(why, 10, "both reasons to be told")
    view = daemon.finished(run)

    (large,), (nowhere,) = attempts_of(view, "large"), attempts_of(view, "nowhere")
    assert (large["ending"], nowhere["ending"]) == ("unschedulable", "image cannot be pulled")
    assert "Insufficient cpu" in large["message"]
    assert NOWHERE in nowhere["message"]
    pods.assert_one_pod_per_attempt()
    pods.assert_nothing_left()


def test_a_registry_that_cannot_be_reached_is_quoted(pods: PodDaemon) -> None:
    pods.start(KUBERNETES_IMAGE_PULL_POLICY="IfNotPresent", KUBERNETES_IMAGE_PULL_S="3")

    run = pods.finish("nowhere.yaml", workflow("nowhere", bash("only", "true", image=NOWHERE)))

    (attempt,) = attempts_of(run, "only")
    assert attempt["ending"] == "image cannot be pulled"
    assert "registry.invalid" in attempt["message"]
    assert "no such host" in attempt["message"] or "lookup" in attempt["message"], attempt["message"]


def test_a_pod_that_somebody_deletes_while_it_runs_gets_a_new_attempt_that_does_not_count(
    pods: PodDaemon, gate: Gate
) -> None:
    daemon = pods.daemon
    step = bash("only", f"{gate.wait} echo done > /tekton/results/out", "outputs: [{name: out}]")
    pods.start()
    run = pods.begin(gate, workflow("deleted", step, outputs="[{name: out}]"))

    pod = pods.pod(run, "only")
    assert pod is not None
    pods.delete_pod(pod, grace_s=0)
    gate.await_arrivals(2)
    gate.open()
    view = daemon.finished(run)

    assert view["state"] == "succeeded"
    assert view["outputs"] == {"out": "done"}
    assert endings(view, "only") == ["deleted from outside", "succeeded"]
    assert view["steps"][0]["attempts"][1]["reason"] != "first"
    assert len(set(gate.arrived)) == 2
    pods.assert_one_pod_per_attempt()
    pods.assert_nothing_left()


def test_a_pod_deleted_after_it_ended_and_before_the_daemon_saw_it_is_lost_and_repeated(
    pods: PodDaemon, gate: Gate
) -> None:
    daemon = pods.daemon
    pods.start()
    run = pods.begin(gate, workflow("lost", bash("only", gate.wait)))

    daemon.kill()
    gate.open()
    pods.delete_pod(pods.pod_in_phase(run, "only", "Succeeded"))
    pods.start()
    view = daemon.finished(run)

    assert view["state"] == "succeeded"
    assert endings(view, "only") in (["lost", "succeeded"], ["deleted from outside", "succeeded"])
    pods.assert_one_pod_per_attempt()


def test_steps_that_end_while_the_daemon_is_dead_are_judged_by_the_next_one(pods: PodDaemon, gate: Gate) -> None:
    daemon = pods.daemon
    gives = f"echo begun; {gate.wait} head -c 9000 /dev/zero | tr '\\0' x > /tekton/results/out; echo ended"
    steps = (
        bash("gives", gives, "needs: []", "outputs: [{name: out}]"),
        bash("fails", f"{gate.wait} exit 4", "needs: []"),
    )
    pods.start()
    daemon.drop("ends.yaml", workflow("ends", *steps, outputs="[{name: out}]"))
    run = daemon.run_of("ends.yaml")
    gate.await_arrivals(2)
    for name in ("gives", "fails"):
        daemon.in_state(run, name, "running")

    daemon.kill()
    gate.open()
    pods.pod_in_phase(run, "gives", "Succeeded")
    pods.pod_in_phase(run, "fails", "Failed")
    pods.start()
    view = daemon.finished(run)

    assert (endings(view, "gives"), endings(view, "fails")) == (["succeeded"], ["program failed"])
    assert daemon.step(run, "gives")["outputs"] == {"out": "x" * 9000}
    assert log(daemon, run, "gives") == "begun\nended\n"
    pods.assert_one_pod_per_attempt()
    pods.assert_nothing_left()


def test_cancelling_and_timing_out_end_the_pod_gently_first(pods: PodDaemon, gate: Gate) -> None:
    daemon = pods.daemon
    script = f"trap 'echo told to stop; exit 0' TERM; {gate.wait}"
    pods.start(STEPS_GRACE_S="20")
    daemon.drop("cancel.yaml", workflow("cancel", bash("only", script), bash("later", "true")))
    daemon.drop("late.yaml", workflow("late", bash("only", script, "timeout: 6s")))
    cancelled, late = daemon.run_of("cancel.yaml"), daemon.run_of("late.yaml")
    gate.await_arrivals(2)
    daemon.in_state(cancelled, "only", "running")

    asked = time.monotonic()
    daemon.run("fuseml", "cancel", cancelled)
    view = daemon.finished(cancelled)
    took_s = time.monotonic() - asked
    timed_out = daemon.finished(late)

    assert view["state"] == "cancelled"
    assert endings(view, "only") == ["cancelled"]
    assert endings(timed_out, "only") == ["timed out"]
    assert took_s < 20, "the grace period is a limit, not a delay"
    for run in (cancelled, late):
        assert "told to stop" in log(daemon, run, "only")
    pods.assert_one_pod_per_attempt()
    pods.assert_nothing_left()


def test_a_step_that_ignores_the_request_to_stop_is_killed_after_the_grace_period(
    pods: PodDaemon, gate: Gate
) -> None:
    daemon = pods.daemon
    pods.start(STEPS_GRACE_S="1")
    daemon.drop("stubborn.yaml", workflow("stubborn", bash("only", f"trap '' TERM; {gate.wait}")))
    run = daemon.run_of("stubborn.yaml")
    gate.await_arrivals(1)

    daemon.run("fuseml", "cancel", run)
    view = daemon.finished(run, 20)

    assert endings(view, "only") == ["cancelled"]
    pods.assert_nothing_left()


def test_a_log_is_followed_while_its_pod_runs_and_kept_when_the_pod_is_gone(pods: PodDaemon, gate: Gate) -> None:
    daemon = pods.daemon
    many = "for n in $(seq 5000); do echo line $n; done"
    pods.start()
    daemon.drop("talks.yaml", workflow("talks", bash("only", f"echo first; {gate.wait} {many}")))
    run = daemon.run_of("talks.yaml")

    daemon.wait_for(lambda: log(daemon, run, "only") == "first\n", 30, "the first line")
    gate.open()
    daemon.finished(run)
    pods.assert_nothing_left()

    assert log(daemon, run, "only") == "first\n" + "".join(f"line {n}\n" for n in range(1, 5001))


def test_a_log_says_where_lines_are_missing_that_the_node_threw_away(pods: PodDaemon, gate: Gate) -> None:
    """Kubelet shows the newest of its files only, and begins a new one when one has 10 MiB."""
    daemon = pods.daemon
    many = "yes 0123456789abcdef0123456789abcdef | head -n 400000; echo written"
    pods.start()
    with gate_on(pods.cluster) as last:
        daemon.drop(
            "much.yaml", workflow("much", bash("only", f"echo first; {gate.wait} {many}; {last.wait} echo last"))
        )
        run = daemon.run_of("much.yaml")
        daemon.wait_for(lambda: log(daemon, run, "only") == "first\n", 30, "the first line")
        daemon.kill()
        gate.open()
        last.await_arrivals(1)
        name = last.arrived[0]
        path = f"/api/v1/namespaces/{pods.namespace}/pods/{name}/log?container=step&limitBytes=5"
        daemon.wait_for(lambda: pods.api.call("GET", path) != b"first", 60, "kubelet to begin a new file")
        pods.start()
        last.open()
        daemon.finished(run)

    first, note, *_, end = filter(None, log(daemon, run, "only").splitlines())
    assert first == "first"
    assert "lines may be missing here" in note
    assert end == "last"
    pods.assert_one_pod_per_attempt()
