"""The `kserve-predictor` step: has a trained model served, and leaves an application behind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import anyio

from fusemld.hooks.steps import StepContext, StepInputs
from fusemld.model.extension import ServiceAccess
from fusemld_kserve import cluster, local
from fusemld_kserve.options import read_options
from fusemld_kserve.resolver import RESOURCES, is_local

OUTPUT = "prediction-url"


class KServePredictor:
    """Steps of one application follow one another, and every one begins by asking whether a newer run was here;
    whatever an interrupted one left is found again by its content."""

    repositories: tuple[str, ...] = ("ghcr.io/fuseml/kserve-predictor", "ghcr.io/fuseml/kfserving-predictor")
    inputs = StepInputs(
        required=frozenset({"model"}),
        optional=frozenset(
            {"predictor", "app_name", "verbose", "runtime_version", "resources", "resources_limits"}
        ),
    )

    def __init__(self) -> None:
        self._locks: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)

    async def run(self, context: StepContext) -> Mapping[str, str]:
        options = read_options(
            context.inputs, project=context.project, workflow=context.workflow, codesets=context.codesets
        )
        remote = _cluster(context)
        for warning in options.warnings if remote else (*options.warnings, *options.meaningless_here):
            context.log(f"warning: {warning}")
        lock = self._locks[options.application]
        if remote is not None:
            url = await cluster.deploy(context, options, remote, lock)
        else:
            async with lock:
                url = await local.deploy(context, options)
        output = OUTPUT if OUTPUT in context.outputs or not context.outputs else context.outputs[0]
        return {output: url}


def _cluster(context: StepContext) -> ServiceAccess | None:
    """Where KServe is; None: this machine."""
    for access in context.extensions.values():
        if access.service.service_resource in RESOURCES and not is_local(access.service.url):
            return access
    return None
