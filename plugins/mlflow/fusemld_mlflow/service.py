"""The embedded MLflow tracking server: runs and metrics in SQLite, artifacts in the embedded object store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from fusemld.hooks.environments import EnvironmentSpec
from fusemld.hooks.services import HttpProbe, ServiceContext, ServicePlan

KIND = "mlflow"
STORE_KIND = "s3"
BUCKET = "mlflow-artifacts"


def requirements() -> str:
    """What the server is installed from, with hashes."""
    return (files("fusemld_mlflow") / "requirements.txt").read_text()


def pinned_version(package: str) -> str:
    """The version of a package in the server's environment."""
    match = re.search(rf"^{re.escape(package)}==([^\s;]+)", requirements(), re.MULTILINE)
    assert match is not None
    return match[1]


class TrackingServerKind:
    kind = KIND
    description = "MLflow tracking server"
    requires: tuple[str, ...] = (STORE_KIND,)
    credentials: tuple[str, ...] = ()

    def environment(self, parameters: Mapping[str, str]) -> EnvironmentSpec | None:  # noqa: ARG002
        label = f"the MLflow tracking server ({pinned_version('mlflow')})"
        return EnvironmentSpec(label=label, requirements=requirements())

    def plan(self, context: ServiceContext) -> ServicePlan:
        assert context.environment is not None
        address, store = context.address, context.peers[STORE_KIND]
        database = address.folder / "mlflow.db"
        # without a proxied artifact store clients learn s3:// addresses and talk to the store themselves
        storage = ("--backend-store-uri", f"sqlite:///{database}", "--no-serve-artifacts")
        server = ("--host", address.host, "--port", str(address.port), "--workers", "1")
        launcher = Path(str(files("fusemld_mlflow") / "launcher.py"))
        return ServicePlan(
            argv=(
                *(str(context.environment / "bin" / "python"), str(launcher), BUCKET),
                *storage,
                *("--default-artifact-root", f"s3://{BUCKET}"),
                *server,
            ),
            env={
                "MLFLOW_S3_ENDPOINT_URL": store.url,
                "AWS_ENDPOINT_URL_S3": store.url,
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
                "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "DO_NOT_TRACK": "true",
            },
            secret_env={
                "AWS_ACCESS_KEY_ID": store.credentials["access_key"],
                "AWS_SECRET_ACCESS_KEY": store.credentials["secret_key"],
            },
            probe=HttpProbe(path="/health"),
        )
