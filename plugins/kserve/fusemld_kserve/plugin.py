"""What the plugin brings, as hook implementations."""

from __future__ import annotations

from collections.abc import Sequence

from fusemld.hooks.resolvers import Resolver
from fusemld.hooks.services import ServiceKind
from fusemld.hooks.specs import hookimpl
from fusemld.hooks.steps import PluginStep
from fusemld_kserve.inference import InferenceServer
from fusemld_kserve.predictor import KServePredictor
from fusemld_kserve.resolver import KServeResolver


@hookimpl
def fusemld_plugin_steps() -> Sequence[PluginStep]:
    return (KServePredictor(),)


@hookimpl
def fusemld_resolvers() -> Sequence[Resolver]:
    return (KServeResolver(),)


@hookimpl
def fusemld_service_kinds() -> Sequence[ServiceKind]:
    return (InferenceServer(),)
