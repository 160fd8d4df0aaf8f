"""Finds plugins, calls their hooks once, and refuses two that claim the same thing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import msgspec
import pluggy

from fusemld.hooks.executors import PROCESS
from fusemld.hooks.resolvers import Resolver
from fusemld.hooks.services import ServiceKind
from fusemld.hooks.specs import PROJECT, Specs
from fusemld.hooks.steps import PluginStep, PodRuntime, ProcessRuntime
from fusemld.hooks.stores import ObjectStoreFactory
from fusemld.model.errors import StartError

T = TypeVar("T")


class Plugins(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that plugins brought, by what it claims. `names` are (plugin, version) in order of name."""

    names: tuple[tuple[str, str], ...]
    runtimes: dict[str, ProcessRuntime]
    pod_runtimes: dict[str, PodRuntime]
    steps: dict[str, PluginStep]
    resolvers: dict[str, Resolver]
    service_kinds: dict[str, ServiceKind]
    object_stores: dict[str, ObjectStoreFactory]

    def runtime(self, image: str, executor: str) -> ProcessRuntime | PodRuntime | None:
        """Who claims the image for that executor."""
        runtimes = self.runtimes if executor == PROCESS else self.pod_runtimes
        return runtimes.get(repository(image))


def repository(image: str) -> str:
    """The image name without tag and digest: `ghcr.io/x/y:1@sha256:..` gives `ghcr.io/x/y`."""
    name = image.partition("@")[0]
    head, colon, tag = name.rpartition(":")
    return head if colon and "/" not in tag else name


def load_plugins(extra: Iterable[tuple[str, object]] = ()) -> Plugins:
    """Everything installed under the entry-point group, and `extra` (name, plugin) pairs.

    Raises `StartError` where two plugins claim the same thing or one cannot be loaded.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Specs)
    try:
        manager.load_setuptools_entrypoints(PROJECT)
        for name, plugin in extra:
            manager.register(plugin, name)
        manager.check_pending()
    except Exception as error:
        raise StartError(f"cannot load plugins: {error}") from error
    versions = {plugin: dist.version for plugin, dist in manager.list_plugin_distinfo()}
    names = sorted((name, versions.get(plugin, "")) for name, plugin in manager.list_name_plugin())
    hook = manager.hook
    steps = _claims("image", _flat(hook.fusemld_plugin_steps()), lambda s: s.repositories, {})
    runtimes = _claims("image", _flat(hook.fusemld_process_runtimes()), lambda r: r.repositories, dict(steps))
    pods = _claims("image", _flat(hook.fusemld_pod_runtimes()), lambda r: r.repositories, dict(steps))
    return Plugins(
        names=tuple(names),
        runtimes=runtimes,
        pod_runtimes=pods,
        steps=steps,
        resolvers=_claims("resolver", _flat(hook.fusemld_resolvers()), lambda r: (r.name,), {}),
        service_kinds=_claims("service kind", _flat(hook.fusemld_service_kinds()), lambda k: (k.kind,), {}),
        object_stores=_claims("scheme", _flat(hook.fusemld_object_stores()), lambda f: f.schemes, {}),
    )


def _flat(results: Sequence[Sequence[T]]) -> list[T]:
    return [item for result in results for item in result]


def _claims(
    what: str, items: list[T], keys: Callable[[T], Sequence[str]], taken: dict[str, object]
) -> dict[str, T]:
    claims: dict[str, T] = {}
    for item in items:
        for key in keys(item):
            if key in taken:
                first, second = (type(owner).__module__ for owner in (taken[key], item))
                raise StartError(f"cannot load plugins: {first} and {second} both claim the {what} {key!r}")
            taken[key] = claims[key] = item
    return claims
