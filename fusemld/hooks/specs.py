"""The hook specifications. Hooks are synchronous and return objects (pluggy has no async calls)."""

from __future__ import annotations

from collections.abc import Sequence

import pluggy

from fusemld.hooks.resolvers import Resolver
from fusemld.hooks.services import ServiceKind
from fusemld.hooks.steps import PluginStep, PodRuntime, ProcessRuntime
from fusemld.hooks.stores import ObjectStoreFactory

PROJECT = "fusemld"
"""Name of the pluggy project and of the entry-point group."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Specs:
    @hookspec
    def fusemld_process_runtimes(self) -> Sequence[ProcessRuntime]:
        """Images that the process executor can run because of this plugin."""
        raise NotImplementedError

    @hookspec
    def fusemld_pod_runtimes(self) -> Sequence[PodRuntime]:
        """Images that mean something special to executors that run containers."""
        raise NotImplementedError

    @hookspec
    def fusemld_plugin_steps(self) -> Sequence[PluginStep]:
        """Steering steps that run in the daemon."""
        raise NotImplementedError

    @hookspec
    def fusemld_resolvers(self) -> Sequence[Resolver]:
        """Access to extensions without a record."""
        raise NotImplementedError

    @hookspec
    def fusemld_service_kinds(self) -> Sequence[ServiceKind]:
        """Embedded services."""
        raise NotImplementedError

    @hookspec
    def fusemld_object_stores(self) -> Sequence[ObjectStoreFactory]:
        """Clients of object stores."""
        raise NotImplementedError
