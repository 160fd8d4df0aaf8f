"""The main job with real parts: an MLflow Project is built, trained, tracked, stored, served and asked."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemon import EXAMPLES, Daemon, running_daemon

pytestmark = [pytest.mark.acceptance, pytest.mark.services, pytest.mark.timeout(900)]

TRAINING_S = 600.0
IRIS = json.loads((EXAMPLES / "codesets" / "sklearn-iris" / "sample.json").read_text())


@pytest.fixture(scope="module")
def mlops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with the examples' workflows; its services are built once for all tests of this file."""
    with running_daemon(tmp_path_factory.mktemp("mlops")) as daemon:
        daemon.drop_example("workflows/mlflow-e2e.yaml")
        daemon.drop_example("workflows/mlflow-tune.yaml")
        yield daemon


def ask(url: str, inputs: list[dict[str, Any]]) -> list[float]:
    body = json.dumps({"inputs": inputs}).encode()
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return list(json.load(answer)["outputs"][0]["data"])


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def request_run(daemon: Daemon, name: str, workflow: str, **inputs: str) -> dict[str, Any]:
    """Drop a run request and wait for the end of its run."""
    lines = "".join(f"  {key}: {json.dumps(value)}\n" for key, value in inputs.items())
    daemon.drop(name, f"workflow: {workflow}\ninputs:\n{lines}")
    return daemon.finished(daemon.run_of(name), TRAINING_S)


def log(daemon: Daemon, run: dict[str, Any], step: str) -> str:
    return daemon.run("fuseml", "logs", run["id"], step).stdout


def mlflow_url(daemon: Daemon) -> str:
    return str(next(service["url"] for service in daemon.json("services") if service["name"] == "mlflow"))


def test_the_first_example_of_the_reference_ends_with_right_predictions(mlops: Daemon) -> None:
    mlops.add_codeset("iris", "sklearn-iris")

    run = request_run(mlops, "iris.yaml", "mlflow-e2e", **{"mlflow-codeset": "demo/iris"})

    assert run["state"] == "succeeded", mlops.run("fuseml", "why", run["id"]).stdout
    predicted = [round(value) for value in ask(run["outputs"]["prediction-url"], IRIS["inputs"])]
    assert sum(a == b for a, b in zip(predicted, IRIS["truth"], strict=True)) >= 9
    experiment = get(f"{mlflow_url(mlops)}/api/2.0/mlflow/experiments/get-by-name?experiment_name=demo.iris")
    assert experiment["experiment"]["artifact_location"].startswith("s3://")
    (application,) = mlops.json("application", "list")
    assert application["name"] == "demo-iris-mlflow-e2e"
    assert application["url"] == run["outputs"]["prediction-url"]


def test_a_second_training_reuses_the_environment_and_updates_the_model_without_a_refused_request(
    mlops: Daemon,
) -> None:
    (before,) = [app for app in mlops.json("application", "list") if app["name"] == "demo-iris-mlflow-e2e"]
    stop = threading.Event()
    answers: list[int] = []
    failures: list[str] = []

    def hammer() -> None:
        while not stop.is_set():
            try:
                answers.append(len(ask(before["url"], IRIS["inputs"])))
            except (urllib.error.URLError, OSError, ValueError) as error:
                failures.append(repr(error))

    client = threading.Thread(target=hammer)
    client.start()
    try:
        run = request_run(mlops, "iris-again.yaml", "mlflow-e2e", **{"mlflow-codeset": "demo/iris"})
    finally:
        stop.set()
        client.join()

    assert run["state"] == "succeeded", mlops.run("fuseml", "why", run["id"]).stdout
    assert failures == []
    assert len(answers) > 20
    assert run["outputs"]["prediction-url"] == before["url"]
    assert "reusing environment" in log(mlops, run, "builder")
    (after,) = [app for app in mlops.json("application", "list") if app["name"] == "demo-iris-mlflow-e2e"]
    assert after["run"] == run["id"]
    assert after["revision"] == before["revision"] + 1
    serving = [service["name"] for service in mlops.json("services") if service["kind"] not in ("s3", "mlflow")]
    assert len(serving) == 1, "the old process went when the new one was ready"


@pytest.fixture
def without_sandbox(mlops: Daemon) -> Iterator[None]:
    """As on a host without bubblewrap: the paths that steps name are not there."""
    mlops.terminate()
    mlops.start(PROCESS_SANDBOX="off")
    yield
    mlops.terminate()
    mlops.start(PROCESS_SANDBOX="auto")


@pytest.mark.usefixtures("without_sandbox")
def test_two_trainings_side_by_side_of_a_project_with_requirements_txt_serve_the_better_model(
    mlops: Daemon,
) -> None:
    mlops.add_codeset("wine", "sklearn-wine")

    run = request_run(
        mlops,
        "wine.yaml",
        "mlflow-tune",
        **{
            "mlflow-codeset": "demo/wine",
            "first-args": "trees=1 max_depth=1",
            "second-args": "trees=40,max_depth=6",
        },
    )

    assert run["state"] == "succeeded", mlops.run("fuseml", "why", run["id"]).stdout
    steps = {step["name"]: step for step in run["steps"]}
    times = {
        (name, what): datetime.fromisoformat(step[what])
        for name, step in steps.items()
        for what in ("started_at", "finished_at")
    }
    assert times["first", "started_at"] < times["second", "finished_at"]
    assert times["second", "started_at"] < times["first", "finished_at"]
    assert run["outputs"]["chosen"] == steps["second"]["outputs"]["mlflow-model-url"]
    row = [13.7, 1.9, 2.4, 17.0, 106.0, 2.9, 3.0, 0.3, 2.0, 5.6, 1.1, 3.2, 1060.0]
    inputs = [{"name": "wine", "shape": [1, 13], "datatype": "FP64", "data": row}]
    assert ask(run["outputs"]["prediction-url"], inputs) == [0]


def test_a_project_with_python_env_yaml_is_served_too(mlops: Daemon) -> None:
    mlops.add_codeset("diabetes", "sklearn-diabetes")

    run = request_run(mlops, "diabetes.yaml", "mlflow-e2e", **{"mlflow-codeset": "demo/diabetes"})

    assert run["state"] == "succeeded", mlops.run("fuseml", "why", run["id"]).stdout
    row = [0.04, 0.05, 0.06, 0.02, -0.04, -0.03, -0.04, -0.002, 0.02, -0.02]
    inputs = [{"name": "patient", "shape": [1, 10], "datatype": "FP64", "data": row}]
    (progress,) = ask(run["outputs"]["prediction-url"], inputs)
    assert 25 < progress < 350


def test_a_project_on_mlflow_2_is_trained_tracked_and_served_like_any_other(mlops: Daemon) -> None:
    files = mlops.add_codeset("old", "sklearn-iris")
    environment = files / "conda.yaml"
    pinned = environment.read_text().replace("      - numpy<3\n", "      - mlflow==2.22.*\n      - numpy<3\n")
    assert "mlflow==2.22" in pinned
    environment.write_text(pinned)
    script = files / "train.py"
    script.write_text(script.read_text().replace('name="model"', 'artifact_path="model"'))

    run = request_run(mlops, "old.yaml", "mlflow-e2e", **{"mlflow-codeset": "demo/old"})

    assert run["state"] == "succeeded", mlops.run("fuseml", "why", run["id"]).stdout
    model = {step["name"]: step for step in run["steps"]}["trainer"]["outputs"]["mlflow-model-url"]
    assert "/models/m-" not in model, "MLflow 2 keeps models below their runs"
    predicted = [round(value) for value in ask(run["outputs"]["prediction-url"], IRIS["inputs"])]
    assert sum(a == b for a, b in zip(predicted, IRIS["truth"], strict=True)) >= 9


def test_a_training_script_that_fails_says_why_and_a_retry_does_not_build_again(mlops: Daemon) -> None:
    files = mlops.add_codeset("broken", "sklearn-iris")
    script = files / "train.py"
    broken = 'raise SystemExit("the data are not there yet")'
    flag = mlops.base / "data-are-there"
    script.write_text(f'import pathlib\nif not pathlib.Path("{flag}").exists(): {broken}\n' + script.read_text())

    failed = request_run(mlops, "broken.yaml", "mlflow-e2e", **{"mlflow-codeset": "demo/broken"})
    why = mlops.run("fuseml", "why", failed["id"]).stdout
    full = log(mlops, failed, "trainer")
    flag.touch()
    mlops.run("fuseml", "retry", failed["id"])
    again = mlops.finished(failed["id"], TRAINING_S)

    assert failed["state"] == "failed"
    assert "trainer" in why
    assert "exit status 1" in why
    assert "the data are not there yet" in why
    assert "the data are not there yet" in full
    assert again["state"] == "succeeded"
    attempts = {step["name"]: len(step["attempts"]) for step in again["steps"]}
    assert attempts == {"builder": 1, "trainer": 2, "predictor": 1}


def test_an_unknown_argument_of_the_entry_point_is_an_error_that_lists_the_parameters(mlops: Daemon) -> None:
    run = request_run(
        mlops,
        "wine-typo.yaml",
        "mlflow-tune",
        **{"mlflow-codeset": "demo/wine", "first-args": "tree=1", "second-args": "trees=2"},
    )

    assert run["state"] == "failed"
    why = mlops.run("fuseml", "why", run["id"]).stdout
    assert "tree" in why
    assert "max_depth" in why


def test_a_flavour_that_cannot_be_served_here_names_the_executor_that_could(mlops: Daemon) -> None:
    mlops.drop(
        "triton.yaml",
        (EXAMPLES / "workflows" / "mlflow-e2e.yaml")
        .read_text()
        .replace("name: mlflow-e2e", "name: mlflow-triton"),
    )

    run = request_run(
        mlops, "triton-run.yaml", "mlflow-triton", **{"mlflow-codeset": "demo/iris", "predictor": "triton"}
    )

    assert run["state"] == "failed"
    assert "kubernetes" in mlops.run("fuseml", "why", run["id"]).stdout


def test_applications_outlive_the_daemon_until_they_are_deleted(mlops: Daemon) -> None:
    (application,) = [app for app in mlops.json("application", "list") if app["name"] == "demo-iris-mlflow-e2e"]

    mlops.terminate()
    answer_without_daemon = ask(application["url"], IRIS["inputs"])
    mlops.start()
    answer_with_daemon = ask(application["url"], IRIS["inputs"])
    mlops.run("fuseml", "application", "delete", application["name"])

    assert answer_without_daemon == answer_with_daemon
    assert application["name"] not in [app["name"] for app in mlops.json("application", "list")]
    with pytest.raises(urllib.error.URLError):
        ask(application["url"], IRIS["inputs"])


def test_an_assignment_trains_when_it_arrives_and_when_the_codeset_changes(mlops: Daemon) -> None:
    def runs() -> list[dict[str, Any]]:
        cause = "assignment/iris-stays-fresh"
        return [run for run in mlops.json("runs", "--limit", "100") if run["cause"].startswith(cause)]

    mlops.drop_example("documents/iris-assignment.yaml")
    mlops.wait_for(lambda: len(runs()) == 1, 30, "the first run")
    first = mlops.finished(runs()[0]["id"], TRAINING_S)
    script = mlops.codesets / "iris" / "train.py"
    script.write_text(script.read_text() + "\n# a change\n")
    mlops.wait_for(lambda: len(runs()) == 2, 30, "the run for the change")
    second = mlops.finished(runs()[0]["id"], TRAINING_S)
    (mlops.folder / "iris-assignment.yaml").unlink()

    assert [first["state"], second["state"]] == ["succeeded", "succeeded"]
    assert first["codesets"]["demo/iris"]["version"] != second["codesets"]["demo/iris"]["version"]
    assert first["outputs"] == second["outputs"], "the same application at the same address"


def test_a_record_of_services_elsewhere_goes_before_the_embedded_ones(mlops: Daemon) -> None:
    file = mlops.drop_example("documents/mlflow-extension.yaml")
    mlops.wait_for(lambda: mlops.json("extension", "list"), 10, "the record")

    explained = mlops.run("fuseml", "extension", "explain", "mlflow-e2e", "--project", "team-a").stdout
    listed = mlops.run("fuseml", "extension", "get", "mlflow-team-a").stdout
    file.unlink()
    mlops.wait_for(lambda: not mlops.json("extension", "list"), 10, "the record to go")

    assert "mlflow-team-a/mlflow-tracking" in explained
    assert "AWS_SECRET_ACCESS_KEY" in listed
    assert "/etc/fusemld/secrets" not in listed


def test_the_codesets_files_are_where_the_watched_folder_does_not_look(mlops: Daemon) -> None:
    assert not [entry for entry in mlops.json("files") if entry["state"] == "rejected"]
    assert Path(mlops.codesets, "iris", "conda.yaml").exists()
