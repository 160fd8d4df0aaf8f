"""Runs an entry point of the MLflow Project in the working folder and says where the model is.

A program of its own: it runs in the environment that was built for the project, which has some MLflow (2 or 3)
on some Python (3.8 or newer) and nothing of fusemld. Inputs come in `FUSEML_*` variables. The entry point is
started here and not by `mlflow run`, which loses its exit status; it sees the same variables as under that.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESERVED = frozenset({"FUSEML_RESULTS_DIR", "FUSEML_CODESET_DIR"})
"""Variables that every step has, whatever its inputs are."""
TRUE = ("1", "true", "yes", "on")
MODEL_HISTORY_TAG = "mlflow.log-model.history"
DEFAULT_ARTIFACT_PATH = "model"


class TrainingError(Exception):
    """Ends the step with a message for people and an exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def parse_arguments(text: str) -> dict[str, str]:
    """`name=value` pairs separated by spaces or commas; quotes keep a separator inside a value."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace += ","
    lexer.whitespace_split = True
    lexer.commenters = ""
    arguments: dict[str, str] = {}
    try:
        for word in lexer:
            name, equals, value = word.partition("=")
            if not name or not equals:
                raise TrainingError(
                    f"mlflow_entrypoint_args: {word!r} is not name=value "
                    "(a value with a space or a comma needs quotes)"
                )
            arguments[name] = value
    except ValueError as error:
        raise TrainingError(f"mlflow_entrypoint_args: {error}") from error
    return arguments


def choose_parameters(known: list[str], entry_point: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What the entry point is given: arguments first, then step inputs that have the name of a parameter."""
    parameters = parse_arguments(environ.get("FUSEML_MLFLOW_ENTRYPOINT_ARGS", ""))
    for name in parameters:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise TrainingError(
                f"mlflow_entrypoint_args: the entry point {entry_point!r} has no parameter {name!r} "
                f"(it has: {listed})"
            )
    for name in known:
        variable = "FUSEML_" + name.upper().replace("-", "_").replace(".", "_")
        if name not in parameters and variable in environ and variable not in RESERVED:
            parameters[name] = environ[variable]
    return parameters


def default_experiment(folder: Path) -> str:
    """`PROJECT.CODESET` of the codeset in the folder."""
    names = [folder / ".fuseml" / name for name in ("_org", "_project")]
    if all(path.is_file() for path in names):
        return ".".join(path.read_text().strip() for path in names)
    return "Default"


def model_address(client: Any, run_id: str, artifact_path: str) -> str:
    """Where the model is stored that was logged under that name; without one, `model` or what was logged last.

    MLflow 3 keeps models beside the run, MLflow 2 below it; plain artifacts of that path are taken as well.
    """
    run = client.get_run(run_id)
    outputs = getattr(getattr(run, "outputs", None), "model_outputs", None) or []
    models = sorted((client.get_logged_model(o.model_id) for o in outputs), key=lambda m: m.creation_timestamp)
    root = run.info.artifact_uri.rstrip("/")
    history = json.loads(run.data.tags.get(MODEL_HISTORY_TAG, "[]"))
    logged_at = sorted(history, key=lambda e: e.get("utc_time_created", ""))
    logged = [(e["artifact_path"], f"{root}/{e['artifact_path']}") for e in logged_at]
    logged += [(m.name, str(m.artifact_location)) for m in models]
    named: dict[str, str] = dict(logged)
    if (artifact_path or DEFAULT_ARTIFACT_PATH) in named:
        return named[artifact_path or DEFAULT_ARTIFACT_PATH]
    if logged and not artifact_path:
        return logged[-1][1]
    wanted = artifact_path.strip("/") or DEFAULT_ARTIFACT_PATH
    if client.list_artifacts(run_id, wanted):
        return f"{root}/{wanted}"
    if artifact_path:
        raise TrainingError(
            f"mlflow_artifact_path: the training logged nothing as {artifact_path!r}"
            + (f" (models logged: {', '.join(named)})" if named else "")
        )
    raise TrainingError(
        "the training logged no model: log one with mlflow.<flavour>.log_model(...), "
        "or name the artifacts to return with the input mlflow_artifact_path"
    )


def run_entry_point(command: str, environ: Mapping[str, str]) -> int:
    """The exit status of the command, negative if a signal ended it. SIGTERM is passed on and counts as that."""
    shell = shutil.which("bash", path=environ.get("PATH")) or "/bin/sh"
    process: subprocess.Popen[bytes] | None = None
    received: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        received.append(number)
        if process is not None:
            process.send_signal(number)

    previous = signal.signal(signal.SIGTERM, pass_on)  # before there is anything to end
    try:
        process = subprocess.Popen([shell, "-c", command], env=dict(environ))
        if received:
            process.send_signal(received[0])
        status = process.wait()
    finally:
        signal.signal(signal.SIGTERM, previous)
    return -received[0] if received else status


def start_run(
    client: Any, folder: Path, experiment_id: str, entry_point: str, parameters: Mapping[str, str]
) -> str:
    """The id of a new run with the parameters and with the tags that `mlflow run` gives."""
    codeset = folder / ".fuseml" / "_project"
    tags = {
        "mlflow.source.name": codeset.read_text().strip() if codeset.is_file() else str(folder),
        "mlflow.source.type": "PROJECT",
        "mlflow.project.entryPoint": entry_point,
        "mlflow.project.env": "local",
        "fuseml.run": os.environ.get("FUSEML_ENV_RUN_ID", ""),
        "fuseml.workflow": os.environ.get("FUSEML_ENV_WORKFLOW_NAME", ""),
    }
    run_id = str(client.create_run(experiment_id, tags=tags).info.run_id)
    for name, value in parameters.items():
        client.log_param(run_id, name, value)
    return run_id


def train(environ: Mapping[str, str]) -> str:
    """Trains, and returns the address of the model. The run is marked failed or killed where that is so."""
    folder = Path(environ.get("FUSEML_CODESET_DIR") or Path.cwd())
    if not environ.get("MLFLOW_TRACKING_URI"):
        say("warning: no MLFLOW_TRACKING_URI, so runs and models stay in the step's folder and vanish with it")
    import mlflow
    from mlflow.projects.utils import load_project

    project = load_project(str(folder))
    entry_point = environ.get("FUSEML_MLFLOW_ENTRYPOINT") or "main"
    entry_points = sorted(project._entry_points)
    if entry_point not in entry_points:
        raise TrainingError(f"MLproject has no entry point {entry_point!r} (it has: {', '.join(entry_points)})")
    described = project.get_entry_point(entry_point)
    given = choose_parameters(sorted(described.parameters), entry_point, environ)
    experiment = environ.get("FUSEML_MLFLOW_EXPERIMENT") or default_experiment(folder)
    with tempfile.TemporaryDirectory() as storage:
        try:
            command = described.compute_command(given, storage)
            final, _ = described.compute_parameters(given, storage)
        except mlflow.MlflowException as error:
            raise TrainingError(f"the entry point {entry_point!r} cannot be run: {error}") from error
        experiment_id = mlflow.set_experiment(experiment).experiment_id
        client = mlflow.MlflowClient()
        run_id = start_run(client, folder, experiment_id, entry_point, final)
        say(f"experiment {experiment}, run {run_id}")
        say(f"entry point {entry_point}: {command}")
        if environ.get("FUSEML_VERBOSE", "").lower() in TRUE:
            say(f"MLflow {mlflow.__version__} on {sys.executable}")
            for name, value in sorted(final.items()):
                say(f"parameter {name}: {value}")
        variables = {
            **environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", os.defpath)]),
            "MLFLOW_RUN_ID": run_id,
            "MLFLOW_EXPERIMENT_ID": experiment_id,
            "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(),
        }
        os.chdir(str(folder))
        status = run_entry_point(command, variables)
    if status < 0:
        client.set_terminated(run_id, "KILLED")
        name = signal.Signals(-status).name
        raise TrainingError(f"the entry point {entry_point!r} was ended by {name}", 128 - status)
    if status:
        client.set_terminated(run_id, "FAILED")
        raise TrainingError(f"the entry point {entry_point!r} ended with status {status}", status)
    client.set_terminated(run_id, "FINISHED")
    return model_address(client, run_id, environ.get("FUSEML_MLFLOW_ARTIFACT_PATH", "").strip())


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the log of the step


def main() -> int:
    try:
        address = train(dict(os.environ))
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201
        return error.status
    say(f"model: {address}")
    if os.environ.get("TASK_RESULT"):
        Path(os.environ["FUSEML_RESULTS_DIR"], os.environ["TASK_RESULT"]).write_text(address)
    return 0


if __name__ == "__main__":
    sys.exit(main())
