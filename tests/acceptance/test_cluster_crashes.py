"""What `kill -9` does to steps that are pods: every run reaches its end, and no attempt gets a second pod."""

from __future__ import annotations

import pytest

from fusemld.model import faults
from tests.acceptance.daemon import runs
from tests.acceptance.lives import Life
from tests.acceptance.pods import VAULT, Gate, PodDaemon, attempts_of, bash, endings, folder_codeset, log, workflow

pytestmark = [pytest.mark.acceptance, pytest.mark.cluster]

POINTS = [
    *(point for point in faults.POINTS if point.startswith("kubernetes.")),
    "performer.prepared",
    "performer.ended",
    "supervisor.committed",
]

CHAIN = workflow(
    "chain",
    bash(
        "make",
        'test -n "$VAULT_TOKEN"; cat words > /tekton/results/made; echo made',
        "inputs: [{name: data, codeset: {name: demo/data, path: /project}}]",
        "extensions: [{name: vault, product: vault}]",
        "outputs: [{name: made}]",
    ),
    bash(
        "use",
        'echo "used $FUSEML_MADE" > /tekton/results/used; echo used',
        'inputs: [{name: made, value: "{{ steps.make.outputs.made }}"}]',
        "outputs: [{name: used}]",
    ),
    outputs="[{name: used}]",
)


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_at_any_point_makes_no_second_pod_and_leaves_nothing_behind(pods: PodDaemon, point: str) -> None:
    daemon = pods.daemon
    folder_codeset(daemon, "data", words="some words")
    daemon.drop("vault.yaml", VAULT)
    daemon.drop("chain.yaml", CHAIN)

    deaths = [Life(daemon, f"{point}:{count}").ends() for count in (1, 2)]
    pods.start()
    run = daemon.finished(daemon.wait_for(lambda: [entry.id for entry in runs(daemon)], 10, "the run")[0], 90)

    assert any(deaths)
    assert len(runs(daemon)) == 1
    assert run["state"] == "succeeded", daemon.run("fuseml", "why", run["id"]).stdout
    assert run["outputs"] == {"used": "used some words"}
    assert {name: endings(run, name) for name in ("make", "use")} == {"make": ["succeeded"], "use": ["succeeded"]}
    assert [log(daemon, run["id"], name) for name in ("make", "use")] == ["made\n", "used\n"]
    pods.assert_one_pod_per_attempt()
    pods.assert_nothing_left()


def test_a_pod_runs_on_while_the_daemon_is_dead_and_is_taken_up_again(pods: PodDaemon, gate: Gate) -> None:
    daemon = pods.daemon
    pods.start()
    daemon.drop("long.yaml", workflow("long", bash("only", f"echo one; {gate.wait} echo two")))
    run = daemon.run_of("long.yaml")
    gate.await_arrivals(1)
    daemon.in_state(run, "only", "running")

    for _ in range(2):
        daemon.kill()
        pods.start()
        daemon.in_state(run, "only", "running")
    gate.open()
    view = daemon.finished(run)

    assert view["state"] == "succeeded"
    assert len(attempts_of(view, "only")) == 1
    assert log(daemon, run, "only") == "one\ntwo\n"
    assert gate.arrived == list(pods.history.pods)
    pods.assert_one_pod_per_attempt()


def test_pods_of_runs_that_nobody_knows_any_more_are_swept_and_pods_of_others_stay(
    pods: PodDaemon, gate: Gate
) -> None:
    daemon = pods.daemon
    pods.start()
    daemon.drop("long.yaml", workflow("long", bash("only", gate.wait)))
    run = daemon.run_of("long.yaml")
    gate.await_arrivals(1)
    pod = pods.pod(run, "only")
    assert pod is not None
    path = f"/api/v1/namespaces/{pods.namespace}/pods"
    spec = {"containers": [{"name": "main", "image": "localhost/pause:1", "imagePullPolicy": "Never"}]}
    labels = pod["metadata"]["labels"]
    annotations = pod["metadata"]["annotations"]
    unknown = {name: text.replace(run, "gone-run") for name, text in annotations.items()}
    other = {name: "another" if name.endswith("/instance") else text for name, text in labels.items()}
    daemon.kill()
    pods.api.create(
        path, {"metadata": {"name": "unknown", "labels": labels, "annotations": unknown}, "spec": spec}
    )
    pods.api.create(path, {"metadata": {"name": "other", "labels": other, "annotations": unknown}, "spec": spec})

    pods.start()

    daemon.wait_for(lambda: pods.api.find(f"{path}/unknown") is None, 30, "the pod of an unknown run to go")
    assert pods.api.find(f"{path}/other") is not None
    gate.open()
    assert daemon.finished(run)["state"] == "succeeded"
