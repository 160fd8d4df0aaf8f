"""The builder, the trainer and the tracking server as real processes, without the daemon."""

import json
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from fusemld_mlflow.resolver import TrackingResolver
from fusemld_mlflow.runtimes import BUILDER, BuilderRuntime, TrainerRuntime
from fusemld_mlflow.service import TrackingServerKind, pinned_version
from fusemld_s3.service import RcloneKind

from fusemld.hooks.building import find_environment
from fusemld.hooks.services import ServiceAddress
from fusemld.hooks.steps import LocalCommand, RuntimeFolders
from fusemld.kube.clusters import KubeClusters
from fusemld.model.errors import StartError
from fusemld.model.extension import ResolvedService, ServiceAccess

EXAMPLES = Path(__file__).parents[3] / "examples" / "codesets"
NO_CLUSTERS = KubeClusters(None)
KEYS = {"access_key": "test-access-key-0001", "secret_key": "test-secret-key-0001"}
TIMEOUT_S = 200


class Tracking(msgspec.Struct, frozen=True, kw_only=True):
    """A running tracking server and its object store; `env` is what the registry gives to a step."""

    server: ServiceAddress
    store: ServiceAddress
    env: dict[str, str]

    def run(self, run_id: str) -> dict[str, dict[str, str]]:
        with urllib.request.urlopen(f"{self.server.url}/api/2.0/mlflow/runs/get?run_id={run_id}") as answer:
            content: dict[str, dict[str, str]] = json.load(answer)["run"]
            return content


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A finished step process: its output `X` (None where it wrote none) and its log."""

    status: int
    log: str
    output: str | None


@pytest.fixture(scope="session")
def tracking(start_service: Callable[..., ServiceAddress]) -> Tracking:
    store = start_service(RcloneKind(), KEYS)
    server = start_service(TrackingServerKind(), {}, {"s3": store})
    env = {
        "MLFLOW_TRACKING_URI": server.url,
        "MLFLOW_S3_ENDPOINT_URL": store.url,
        "AWS_ACCESS_KEY_ID": KEYS["access_key"],
        "AWS_SECRET_ACCESS_KEY": KEYS["secret_key"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    }
    return Tracking(server=server, store=store, env=env)


@pytest.fixture
def run_step(tmp_path: Path, step_environment: dict[str, str]) -> Callable[..., Step]:
    """`run_step(command, codeset, inputs)` runs a step as the process executor does."""

    def run(command: LocalCommand, codeset: Path, env: dict[str, str]) -> Step:
        results = tmp_path / "results"
        shutil.rmtree(results, ignore_errors=True)
        results.mkdir()
        path = ":".join((*command.path, step_environment["PATH"]))
        places = {"FUSEML_CODESET_DIR": str(codeset), "FUSEML_RESULTS_DIR": str(results), "TASK_RESULT": "X"}
        ended = subprocess.run(
            command.argv,
            cwd=codeset,
            env={**step_environment, **command.env, "PATH": path, **places, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
            text=True,
            check=False,
        )
        output = results / "X"
        return Step(
            status=ended.returncode, log=ended.stdout, output=output.read_text() if output.exists() else None
        )

    return run


@pytest.fixture
def codeset(tmp_path: Path) -> Callable[[str], Path]:
    """A private copy of an example, as an attempt gets it."""

    def copy(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(EXAMPLES / name, folder)
        (folder / ".fuseml").mkdir()
        (folder / ".fuseml" / "_org").write_text("default")
        (folder / ".fuseml" / "_project").write_text(name)
        return folder

    return copy


def test_the_builder_takes_no_module_from_the_project(
    tmp_path: Path, run_step: Callable[..., Step], runtime_folders: RuntimeFolders
) -> None:
    for module in ("json", "msgspec", "fusemld_mlflow"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('taken from the project')\n")

    built = run_step(BuilderRuntime().command(BUILDER, runtime_folders), tmp_path, {})

    assert built.status != 0
    assert "MLproject" in built.log
    assert "taken from the project" not in built.log


@pytest.mark.services
@pytest.mark.parametrize(
    ("example", "source", "weights"),
    [
        ("sklearn-iris", "conda.yaml", "model.skops"),
        ("sklearn-wine", "requirements.txt", "model.pkl"),
        ("sklearn-diabetes", "python_env.yaml", "model.skops"),
    ],
)
def test_an_example_is_built_once_and_trained_into_the_store(
    tracking: Tracking,
    codeset: Callable[[str], Path],
    run_step: Callable[..., Step],
    runtime_folders: RuntimeFolders,
    example: str,
    source: str,
    weights: str,
) -> None:
    project = codeset(example)

    built = run_step(BuilderRuntime().command(BUILDER, runtime_folders), project, {})
    again = run_step(BuilderRuntime().command(BUILDER, runtime_folders), project, {})
    assert built.status == 0, built.log
    assert built.output
    trained = run_step(TrainerRuntime().command(built.output, runtime_folders), project, tracking.env)

    assert f"environment from {source}" in built.log
    assert again.output == built.output
    assert "reusing environment" in again.log
    assert "installing" not in again.log
    assert trained.status == 0, trained.log
    assert trained.output is not None
    assert trained.output.startswith("s3://mlflow-artifacts/")
    model = tracking.store.folder / "data" / trained.output.removeprefix("s3://")
    assert {"MLmodel", "requirements.txt", weights} <= {path.name for path in model.iterdir()}
    assert f"experiment default.{example}" in trained.log


@pytest.fixture(scope="session")
def failing_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("failing")
    command = "echo rate {rate}; exit {status}"
    entry = {
        "main": {"parameters": {"status": {"type": "int", "default": 7}, "rate": "float"}, "command": command}
    }
    (folder / "MLproject").write_text(json.dumps({"name": "failing", "entry_points": entry}))
    (folder / "conda.yaml").write_text((EXAMPLES / "sklearn-iris" / "conda.yaml").read_text())
    return folder


def _trainer(project: Path, run_step: Callable[..., Step], folders: RuntimeFolders) -> LocalCommand:
    built = run_step(BuilderRuntime().command(BUILDER, folders), project, {})
    assert built.output, built.log
    return TrainerRuntime().command(built.output, folders)


@pytest.mark.services
def test_a_failing_entry_point_gives_its_status_and_its_run_is_marked_failed(
    tracking: Tracking, failing_project: Path, run_step: Callable[..., Step], runtime_folders: RuntimeFolders
) -> None:
    trainer = _trainer(failing_project, run_step, runtime_folders)

    inputs = {"FUSEML_RATE": "0.5", "FUSEML_VERBOSE": "true", "FUSEML_MLFLOW_EXPERIMENT": "trials"}
    failed = run_step(trainer, failing_project, {**tracking.env, **inputs})

    assert failed.status == 7
    assert "experiment trials, run " in failed.log
    assert "parameter rate: 0.5" in failed.log
    assert failed.output is None
    assert "rate 0.5" in failed.log
    assert "ended with status 7" in failed.log
    run_id = failed.log.partition("run ")[2].split()[0]
    assert tracking.run(run_id)["info"]["status"] == "FAILED"


@pytest.mark.services
def test_a_training_without_a_model_with_an_unknown_or_without_a_needed_argument_says_so(
    tracking: Tracking, failing_project: Path, run_step: Callable[..., Step], runtime_folders: RuntimeFolders
) -> None:
    trainer = _trainer(failing_project, run_step, runtime_folders)
    arguments = {**tracking.env, "FUSEML_MLFLOW_ENTRYPOINT_ARGS": "status=0,rate=1"}

    empty = run_step(trainer, failing_project, arguments)
    unknown = run_step(trainer, failing_project, {**tracking.env, "FUSEML_MLFLOW_ENTRYPOINT_ARGS": "rat=1"})
    missing = run_step(trainer, failing_project, tracking.env)
    elsewhere = run_step(trainer, failing_project, {**tracking.env, "FUSEML_MLFLOW_ENTRYPOINT": "mian"})

    assert (empty.status, empty.output) == (1, None)
    assert "the training logged no model" in empty.log
    assert missing.status == 1
    assert "the entry point 'main' cannot be run" in missing.log
    assert unknown.status == 1
    assert "has no parameter 'rat' (it has: rate, status)" in unknown.log
    assert elsewhere.status == 1
    assert "MLproject has no entry point 'mian' (it has: main)" in elsewhere.log


@pytest.mark.services
def test_sigterm_reaches_the_entry_point_and_its_run_is_marked_killed(
    tracking: Tracking,
    failing_project: Path,
    run_step: Callable[..., Step],
    runtime_folders: RuntimeFolders,
    step_environment: dict[str, str],
) -> None:
    trainer = _trainer(failing_project, run_step, runtime_folders)
    (failing_project / "MLproject").write_text(
        json.dumps({"entry_points": {"main": {"command": "echo started; exec sleep 60"}}})
    )
    env = {**step_environment, **tracking.env, **trainer.env, "FUSEML_CODESET_DIR": str(failing_project)}

    with subprocess.Popen(
        trainer.argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        log = ""
        for line in process.stdout:
            log += line
            if line == "started\n":
                process.send_signal(signal.SIGTERM)

    assert process.returncode == 128 + signal.SIGTERM
    assert "was ended by SIGTERM" in log
    run_id = log.partition("run ")[2].split()[0]
    assert tracking.run(run_id)["info"]["status"] == "KILLED"


@pytest.mark.services
async def test_the_check_compares_the_record_with_the_live_server(tracking: Tracking) -> None:
    def access(version: str) -> ServiceAccess:
        service = ResolvedService(
            requirement="t", extension_id="m", service_id="t", url=tracking.server.url, version=version
        )
        return ServiceAccess(service=service)

    right = await TrackingResolver().check(access(pinned_version("mlflow")), NO_CLUSTERS)
    wrong = await TrackingResolver().check(access("1.20.2"), NO_CLUSTERS)

    assert right.ok
    assert pinned_version("mlflow") in right.message
    assert not wrong.ok
    assert "the record says 1.20.2" in wrong.message


async def test_a_server_that_is_not_there_fails_the_check() -> None:
    service = ResolvedService(requirement="t", extension_id="m", service_id="t", url="http://127.0.0.1:1")

    result = await TrackingResolver().check(ServiceAccess(service=service), NO_CLUSTERS)

    assert not result.ok
    assert "cannot reach" in result.message


def test_an_environment_that_is_gone_asks_for_the_builder(tmp_path: Path) -> None:
    folders = RuntimeFolders(environments=tmp_path, cache=tmp_path)

    assert find_environment("0123", folders) is None
    with pytest.raises(StartError, match="not on this host any more"):
        TrainerRuntime().command("localhost/fusemld/mlflow-project:0123", folders)


@pytest.mark.parametrize(
    ("pin", "python", "problem"),
    [
        ("python=2.4", "2.4", "cannot find Python 2.4"),
        ("'python>=3.8.*,<3.11'", ">=3.8.*,<3.11", "'>=3.8.*,<3.11' is no version of Python"),
    ],
)
def test_a_python_that_cannot_be_had_names_the_input_that_overrides_it(
    tmp_path: Path, run_step: Callable[..., Step], pin: str, python: str, problem: str
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "MLproject").write_text("name: old\n")
    (project / "conda.yaml").write_text(f"dependencies: [{pin}, six]\n")
    folders = RuntimeFolders(environments=tmp_path / "environments", cache=tmp_path / "cache")

    built = run_step(BuilderRuntime().command(BUILDER, folders), project, {})

    assert built.status == 1
    assert problem in built.log
    assert f"conda.yaml asks for Python {python}; the input python_version overrides it" in built.log
