"""The hooks of this plugin: MLflow tracking, its embedded server, and the steps that build and train projects."""

from __future__ import annotations

from collections.abc import Sequence

from fusemld.hooks.resolvers import Resolver
from fusemld.hooks.services import ServiceKind
from fusemld.hooks.specs import hookimpl
from fusemld.hooks.steps import PodRuntime, ProcessRuntime
from fusemld_mlflow.resolver import TrackingResolver
from fusemld_mlflow.runtimes import BuilderInContainers, BuilderRuntime, TrainerRuntime
from fusemld_mlflow.service import TrackingServerKind


@hookimpl
def fusemld_resolvers() -> Sequence[Resolver]:
    return (TrackingResolver(),)


@hookimpl
def fusemld_service_kinds() -> Sequence[ServiceKind]:
    return (TrackingServerKind(),)


@hookimpl
def fusemld_process_runtimes() -> Sequence[ProcessRuntime]:
    return (BuilderRuntime(), TrainerRuntime())


@hookimpl
def fusemld_pod_runtimes() -> Sequence[PodRuntime]:
    return (BuilderInContainers(),)
