"""Workflows whose steps are pods: what a step sees, what it hands on, and what is left of it."""

from __future__ import annotations

import base64
import hashlib

import pytest

from tests.acceptance.daemon import Daemon
from tests.acceptance.pods import (
    Gate,
    PodDaemon,
    attempts_of,
    bash,
    endings,
    folder_codeset,
    log,
    workflow,
)
from tests.acceptance.repositories import Repository
from tests.cluster.images import BASE

pytestmark = [pytest.mark.acceptance, pytest.mark.cluster]

TOKEN = "canary-token-4711"
ACME = f"""\
id: acme
product: acme
services:
  - id: main
    resource: acme-api
    auth_required: true
    configuration: {{ACME_LEVEL: service}}
    endpoints: [{{url: "http://acme.example.org"}}]
    credentials: [{{id: one, configuration: {{ACME_TOKEN: {TOKEN}}}}}]
"""
LINES = 300 * 1024 // 8

FIVE = rf"""
name: five
inputs: [{{name: code, type: codeset}}, {{name: greeting, default: hello}}]
outputs: [{{name: words}}, {{name: big}}, {{name: odd}}, {{name: place}}, {{name: text}}]
steps:
  - name: first
    image: {BASE}
    command: [bash, -ec]
    args:
      - |
        test "$TASK_RESULT" = big
        test "$(cat .fuseml/_org) $(cat .fuseml/_project)" = "demo repo"
        test "$FUSEML_ENV_WORKFLOW_NAME" = five
        pwd > /tekton/results/place
        for n in $(seq {LINES}); do printf '%07d\n' $n; done > /tekton/results/big
        head -c 70000 /dev/zero | tr '\0' '\377' > "$FUSEML_RESULTS_DIR/odd"
        echo "$FUSEML_GREETING from $(cat version)" > /tekton/results/words
        printf '{BASE}\n\n' > /tekton/results/image
        echo spoiled > version
    inputs:
      - {{name: code, codeset: {{name: "{{{{ inputs.code }}}}", path: /project}}}}
      - {{name: greeting, value: "{{{{ inputs.greeting }}}}"}}
    outputs: [{{name: big}}, {{name: odd}}, {{name: words}}, {{name: image}}, {{name: place}}]
  - name: left
    image: "{{{{ steps.first.outputs.image }}}}"
    command: [bash, -ec, 'sha256sum <<< "$ACME_TOKEN-$ACME_LEVEL" | cut -c1-64 > /tekton/results/seen']
    needs: [first]
    extensions: [{{name: acme, product: acme}}]
    outputs: [{{name: seen}}]
  - name: right
    image: "{{{{ steps.first.outputs.image }}}}"
    command: [bash, -ec, 'cd /elsewhere; cat version > /tekton/results/seen; test "$PWD" = "$FUSEML_CODESET_DIR"']
    needs: [first]
    inputs: [{{name: code, codeset: {{name: "{{{{ inputs.code }}}}", path: /elsewhere}}}}]
    outputs: [{{name: seen}}]
  - name: both
    image: {BASE}
    command: [bash, -ec, 'echo "$FUSEML_LEFT $FUSEML_RIGHT $FUSEML_WORDS" > /tekton/results/text']
    inputs:
      - {{name: left, value: "{{{{ steps.left.outputs.seen }}}}"}}
      - {{name: right, value: "{{{{ steps.right.outputs.seen }}}}"}}
      - {{name: words, value: "{{{{ steps.first.outputs.words }}}}"}}
    outputs: [{{name: text}}]
  - name: last
    image: {BASE}
    command: [bash, -ec]
    args: ['echo "$TEXT"; test -z "$ACME_TOKEN"']
    env: [{{name: TEXT, value: "{{{{ steps.both.outputs.text }}}}"}}]
"""


@pytest.fixture
def repository(daemon: Daemon) -> Repository:
    """Two commits; the branch `pinned` is at the first."""
    made = Repository(daemon.codesets / "repo")
    made.commit("one")
    made.git("branch", "pinned")
    made.commit("two")
    return made


def test_five_steps_as_pods_see_what_steps_see_and_hand_on_what_they_make(
    pods: PodDaemon, repository: Repository
) -> None:
    daemon = pods.daemon
    daemon.drop("repo.yaml", f"name: repo\nproject: demo\nurl: file://{repository.path}\n")
    daemon.drop("acme.yaml", ACME)
    daemon.drop("five.yaml", FIVE)
    daemon.drop("run.yaml", "workflow: five\ninputs: {code: demo/repo@pinned}\n")
    pods.start()

    run = daemon.finished(daemon.run_of("run.yaml"), 120)

    assert run["state"] == "succeeded", daemon.run("fuseml", "why", run["id"]).stdout
    outputs = run["outputs"]
    assert outputs["big"] == "\n".join(f"{n:07}" for n in range(1, LINES + 1))
    assert len(outputs["big"]) > 300_000
    assert outputs["place"] == "/project"
    odd = outputs["odd"].removeprefix("data:application/octet-stream;base64,")
    assert base64.b64decode(odd) == b"\xff" * 70000
    digest = hashlib.sha256(f"{TOKEN}-service\n".encode()).hexdigest()
    assert outputs["text"] == f"{digest} one hello from one"
    assert log(daemon, run["id"], "last") == f"{outputs['text']}\n"
    times = {step["name"]: (step["started_at"], step["finished_at"]) for step in run["steps"]}
    assert times["left"][0] < times["right"][1]
    assert times["right"][0] < times["left"][1], "both run at the same time"
    pods.assert_one_pod_per_attempt()
    pods.assert_nothing_left()


def test_a_folder_codeset_too_large_for_config_maps_names_the_limit_and_the_ways_out(pods: PodDaemon) -> None:
    folder_codeset(pods.daemon, "code", version="one")
    pods.start(KUBERNETES_CODESET_LIMIT_BYTES="10")

    run = pods.finish(
        "show.yaml",
        workflow("show", bash("only", "true", "inputs: [{name: c, codeset: {name: demo/code, path: /project}}]")),
    )

    assert endings(run, "only") == ["cannot start"]
    (attempt,) = attempts_of(run, "only")
    assert "demo/code" in attempt["message"]
    assert "codeset_limit_bytes" in attempt["message"]
    assert "git" in attempt["message"]
    assert not pods.attempts()


def test_codesets_are_shared_by_runs_and_swept_when_no_run_uses_them(pods: PodDaemon, gate: Gate) -> None:
    daemon = pods.daemon
    folder_codeset(daemon, "code", version="one")
    step = bash(
        "only", f"{gate.wait} cat version", "inputs: [{name: c, codeset: {name: demo/code, path: /project}}]"
    )
    pods.start()
    for name in ("a", "b"):
        daemon.drop(f"{name}.yaml", workflow(name, step))
    gate.await_arrivals(2)

    shared = [thing["metadata"]["name"] for thing in pods.objects("configmaps")]
    gate.open()
    runs = [daemon.finished(daemon.run_of(f"{name}.yaml")) for name in ("a", "b")]

    assert len(shared) == 1
    assert [log(daemon, run["id"], "only") for run in runs] == ["one\n", "one\n"]
    assert [thing["metadata"]["name"] for thing in pods.objects("configmaps")] == shared
    daemon.kill()
    pods.start()
    daemon.wait_for(lambda: not pods.objects("configmaps"), 20, "the codeset to be swept")
    pods.assert_nothing_left()


def test_finished_pods_can_be_kept_for_people_to_look_at(pods: PodDaemon) -> None:
    pods.start(KUBERNETES_KEEP_FINISHED_S="4")

    run = pods.finish("kept.yaml", workflow("kept", bash("only", "echo looked at; exit 3")))

    kept = pods.pod(run["id"], "only")
    assert kept is not None
    assert endings(run, "only") == ["program failed"]
    pods.assert_nothing_left()


def test_building_a_trainer_image_is_refused_with_what_to_do_instead(pods: PodDaemon) -> None:
    folder_codeset(pods.daemon, "code", MLproject="name: x")
    pods.start()

    run = pods.finish(
        "e2e.yaml",
        "name: e2e\nsteps:\n  - name: builder\n    image: ghcr.io/fuseml/mlflow-builder:latest\n"
        "    inputs: [{name: c, codeset: {name: demo/code, path: /project}}]\n    outputs: [{name: image}]\n",
    )

    assert run["state"] == "failed"
    assert "mlflow-builder" in run["message"]
    assert "executor: process" in run["message"]
    assert not pods.attempts()
