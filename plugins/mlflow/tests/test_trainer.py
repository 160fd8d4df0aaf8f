from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fusemld_mlflow.trainer import (
    TrainingError,
    choose_parameters,
    default_experiment,
    model_address,
    parse_arguments,
    run_entry_point,
)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", {}),
        ("a=1", {"a": "1"}),
        ("a=1 b=2", {"a": "1", "b": "2"}),
        ("a=1,b=2", {"a": "1", "b": "2"}),
        (" a=1 ,\n b=2,", {"a": "1", "b": "2"}),
        ("a='1,2' b=\"x y\"", {"a": "1,2", "b": "x y"}),
        ("url=s3://b/k?x=1", {"url": "s3://b/k?x=1"}),
        ("tag=#1", {"tag": "#1"}),
        ("a=", {"a": ""}),
        ("a=1 a=2", {"a": "2"}),
    ],
)
def test_arguments_are_separated_by_spaces_or_commas(text: str, arguments: dict[str, str]) -> None:
    assert parse_arguments(text) == arguments


@pytest.mark.parametrize("text", ["a", "=1", "a=1 2", "a='1"])
def test_what_is_not_an_argument_is_refused(text: str) -> None:
    with pytest.raises(TrainingError, match="mlflow_entrypoint_args"):
        parse_arguments(text)


def test_an_unknown_argument_is_an_error_that_lists_the_parameters() -> None:
    environ = {"FUSEML_MLFLOW_ENTRYPOINT_ARGS": "epoch=2"}

    with pytest.raises(TrainingError, match=r"no parameter 'epoch' \(it has: batch_size, epochs\)"):
        choose_parameters(["batch_size", "epochs"], "main", environ)


def test_inputs_with_the_name_of_a_parameter_are_passed_and_arguments_win() -> None:
    environ = {
        "FUSEML_MLFLOW_ENTRYPOINT_ARGS": "epochs=2",
        "FUSEML_EPOCHS": "9",
        "FUSEML_BATCH_SIZE": "64",
        "FUSEML_OTHER": "x",
        "FUSEML_RESULTS_DIR": "every step has it",
    }

    chosen = choose_parameters(["batch-size", "epochs", "rate", "results_dir"], "main", environ)

    assert chosen == {"epochs": "2", "batch-size": "64"}


def test_the_experiment_is_called_after_project_and_codeset(tmp_path: Path) -> None:
    (tmp_path / ".fuseml").mkdir()
    (tmp_path / ".fuseml" / "_org").write_text("workspace\n")
    (tmp_path / ".fuseml" / "_project").write_text("iris\n")

    assert default_experiment(tmp_path) == "workspace.iris"


class Tracking:
    """The part of MLflow's client that tells where models are, answering from what a server had said."""

    def __init__(self, *, models: tuple[tuple[str, int], ...] = (), history: str = "[]", plain: str = "") -> None:
        self._models = dict(models)
        self._history = history
        self._plain = plain

    def get_run(self, run_id: str) -> Any:
        outputs = SimpleNamespace(model_outputs=[SimpleNamespace(model_id=name) for name in self._models])
        data = SimpleNamespace(tags={"mlflow.log-model.history": self._history})
        return SimpleNamespace(
            outputs=outputs, data=data, info=SimpleNamespace(artifact_uri="s3://b/1/r/artifacts")
        )

    def get_logged_model(self, model_id: str) -> Any:
        created = self._models[model_id]
        location = f"s3://b/1/models/{model_id}/artifacts"
        return SimpleNamespace(name=model_id, creation_timestamp=created, artifact_location=location)

    def list_artifacts(self, run_id: str, path: str) -> list[str]:
        return [path] if path == self._plain else []


HISTORY = (
    '[{"artifact_path": "first", "utc_time_created": "2026-01-01 00:00:00"},'
    ' {"artifact_path": "second", "utc_time_created": "2026-01-01 00:00:01"}]'
)


@pytest.mark.parametrize(
    ("tracking", "artifact_path", "address"),
    [
        (Tracking(models=(("late", 2), ("early", 1))), "", "s3://b/1/models/late/artifacts"),
        (Tracking(models=(("late", 2), ("early", 1))), "early", "s3://b/1/models/early/artifacts"),
        (Tracking(models=(("model", 1), ("scaler", 2))), "", "s3://b/1/models/model/artifacts"),
        (Tracking(history=HISTORY), "", "s3://b/1/r/artifacts/second"),
        (Tracking(history=HISTORY.replace("first", "model")), "", "s3://b/1/r/artifacts/model"),
        (Tracking(history=HISTORY), "first", "s3://b/1/r/artifacts/first"),
        (Tracking(plain="model"), "", "s3://b/1/r/artifacts/model"),
        (Tracking(plain="plots"), "plots/", "s3://b/1/r/artifacts/plots"),
    ],
)
def test_the_model_of_that_name_or_model_or_the_last_one_is_found(
    tracking: Tracking, artifact_path: str, address: str
) -> None:
    assert model_address(tracking, "run", artifact_path) == address


def test_no_model_and_no_such_artifact_are_errors_that_say_what_to_do() -> None:
    with pytest.raises(TrainingError, match="logged no model"):
        model_address(Tracking(), "run", "")
    with pytest.raises(TrainingError, match=r"nothing as 'third' \(models logged: first, second\)"):
        model_address(Tracking(history=HISTORY), "run", "third")


def test_the_exit_status_of_the_entry_point_is_kept() -> None:
    assert run_entry_point("exit 7", {"PATH": "/usr/bin:/bin"}) == 7
    assert run_entry_point("kill -TERM $$", {"PATH": "/usr/bin:/bin"}) == -15
