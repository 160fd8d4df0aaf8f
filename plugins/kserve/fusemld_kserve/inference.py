"""The kind of service that serves one MLflow model: MLServer in the environment that the model needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fusemld.hooks.environments import EnvironmentSpec
from fusemld.hooks.services import HttpProbe, ServiceContext, ServicePlan, ServiceRequest
from fusemld_kserve.models import serving_environment

KIND = "mlserver"
_SERVER = Path(__file__).resolve().parent / "serving" / "server.py"
_START_TIMEOUT_S = 300.0
_GRACE_S = 40.0


def service_name(application: str) -> str:
    return f"predictor-{application}"


def request(application: str, model: Path) -> ServiceRequest:
    """The server of an application; another model folder means an update without a refused request."""
    return ServiceRequest(
        name=service_name(application), kind=KIND, parameters={"application": application, "model": str(model)}
    )


def ready_path(application: str) -> str:
    return f"/v2/models/{application}/ready"


def inference_path(application: str) -> str:
    return f"/v2/models/{application}/infer"


class InferenceServer:
    """Parameters: `application`, the model's name in the protocol, and `model`, its folder."""

    kind = KIND
    description = "serves a model over the Open Inference Protocol (V2) with MLServer"
    requires: tuple[str, ...] = ()
    credentials: tuple[str, ...] = ()

    def environment(self, parameters: Mapping[str, str]) -> EnvironmentSpec | None:
        return serving_environment(Path(parameters["model"]))

    def plan(self, context: ServiceContext) -> ServicePlan:
        assert context.environment is not None
        application = context.parameters["application"]
        return ServicePlan(
            argv=(
                *(str(context.environment / "bin" / "python"), str(_SERVER), "--name", application),
                *("--model", context.parameters["model"], "--private-port", str(context.private_port)),
            ),
            env={"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "PYTHONUNBUFFERED": "1"},
            probe=HttpProbe(path=ready_path(application), private=True),
            inherit_socket=True,
            start_timeout_s=_START_TIMEOUT_S,
            grace_s=_GRACE_S,
        )
