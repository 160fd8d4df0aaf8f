"""What `kill -9` does to steps that are pods: every run reaches its end, and no attempt gets a second pod."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from fusemld.executors.kubernetes import names
from fusemld.hooks.clusters import INSTANCE
from fusemld.model import faults
from fusemld.model.run import AttemptKey
from tests.acceptance.daemon import runs
from tests.acceptance.lives import Life
from tests.acceptance.pods import VAULT, Gate, PodDaemon, attempts_of, bash, endings, folder_codeset, log, workflow
from tests.cluster.images import PAUSE

pytestmark = [pytest.mark.acceptance, pytest.mark.cluster]

POINTS = [*faults.KUBERNETES_POINTS, "performer.prepared", "performer.ended", "supervisor.committed"]
WITHOUT_POD = {"performer.prepared", "supervisor.committed", "kubernetes.delivered", "kubernetes.secret_created"}
"""Where the attempt is recorded and has no pod: it must be given up, for all that the next daemon can know is that
there is none any more."""

CHAIN = workflow(
    "chain",
    bash(
        "make",
        'test -n "$VAULT_TOKEN"; cat words > /tekton/results/made; echo make is done',
        "inputs: [{name: data, codeset: {name: demo/data, path: /project}}]",
        "extensions: [{name: vault, product: vault}]",
        "outputs: [{name: made}]",
    ),
    bash(
        "use",
        'echo "used $FUSEML_MADE" > /tekton/results/used; echo use is done',
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
    for name in ("make", "use"):
        *earlier, last = endings(run, name)
        assert last == "succeeded"
        assert not earlier or (point in WITHOUT_POD and set(earlier) == {"lost"}), endings(run, name)
        lines = [line for line in log(daemon, run["id"], name).splitlines() if not line.startswith("---")]
        assert lines == [f"{name} is done"]
    pods.assert_one_pod_per_attempt()
    pods.assert_nothing_left()


def test_a_pod_whose_end_is_recorded_is_removed_by_the_daemon_after_the_one_that_dies_then(
    pods: PodDaemon, gate: Gate
) -> None:
    daemon = pods.daemon
    pods.start()
    run = pods.begin(gate, workflow("long", bash("only", f"{gate.wait} echo done"), bash("next", "true")))
    daemon.kill()
    gate.open()
    pods.pod_in_phase(run, "only", "Succeeded")

    # The first thing that happens to the run in this life is that end.
    assert Life(daemon, "supervisor.performed").ends()
    with contextlib.closing(sqlite3.connect(daemon.state / "fusemld.db")) as database:
        recorded = database.execute("SELECT state FROM steps WHERE name = 'only'").fetchall()
    left = pods.pod(run, "only")
    pods.start()
    view = daemon.finished(run)

    assert recorded == [("succeeded",)]
    assert left is not None
    assert view["state"] == "succeeded", daemon.run("fuseml", "why", run).stdout
    assert endings(view, "only") == ["succeeded"]
    assert log(daemon, run, "only") == "done\n"
    pods.assert_one_pod_per_attempt()
    pods.assert_nothing_left()


def test_a_pod_runs_on_while_the_daemon_is_dead_and_is_taken_up_again(pods: PodDaemon, gate: Gate) -> None:
    daemon = pods.daemon
    pods.start()
    run = pods.begin(gate, workflow("long", bash("only", f"echo one; {gate.wait} echo two")))

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


def test_another_namespace_waits_until_no_pod_is_left_in_the_one_before(pods: PodDaemon, gate: Gate) -> None:
    """There nobody would watch them, and their steps would be started a second time."""
    daemon = pods.daemon
    pods.start()
    run = pods.begin(gate, workflow("long", bash("only", gate.wait)))
    daemon.terminate()

    pods.start(KUBERNETES_NAMESPACE="default")

    def reason() -> str:
        return " ".join(daemon.run("fuseml", "why", run).stdout.split())

    daemon.wait_for(lambda: f"there are pods of this daemon in {pods.namespace}" in reason(), 10, reason())
    daemon.terminate()
    pods.start(KUBERNETES_NAMESPACE=pods.namespace)
    gate.open()

    assert endings(daemon.finished(run), "only") == ["succeeded"]
    assert len(gate.arrived) == 1
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
    labels, annotations = pod["metadata"]["labels"], pod["metadata"]["annotations"]
    of_gone_run = annotations | {names.RUN: "gone-run"}
    path = f"/api/v1/namespaces/{pods.namespace}/pods"

    def create(name: str, instance: str) -> None:
        metadata = {"name": name, "labels": labels | {INSTANCE: instance}, "annotations": of_gone_run}
        container = {"name": "main", "image": PAUSE, "imagePullPolicy": "Never"}
        pods.api.create(path, {"metadata": metadata, "spec": {"containers": [container]}})

    instance = labels[INSTANCE]
    forgotten = names.pod_name(AttemptKey("gone-run", "only", 1), instance)
    daemon.kill()
    create(forgotten, instance)
    create("of-another-daemon", "another")
    create("copy-by-hand", instance)
    pods.start()

    daemon.wait_for(lambda: pods.api.find(f"{path}/{forgotten}") is None, 45, "the pod of an unknown run to go")
    assert pods.api.find(f"{path}/of-another-daemon") is not None
    assert pods.api.find(f"{path}/copy-by-hand") is not None
    gate.open()
    assert daemon.finished(run)["state"] == "succeeded"
