"""Resources of the step's container and of the helpers around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fusemld.executors.kubernetes.settings import KubernetesSettings
from fusemld.hooks.clusters import Json
from fusemld.hooks.executors import Launch

_HELPER_REQUESTS: Final = {"cpu": "10m", "memory": "32Mi", "ephemeral-storage": "16Mi"}
_HELPER_LIMITS: Final = {"cpu": "200m", "memory": "64Mi", "ephemeral-storage": "64Mi"}


def of_step(launch: Launch, settings: KubernetesSettings) -> Json:
    """What the step says, and the settings' for every resource of which it says nothing."""
    return _both(*_wanted(launch, settings))


def as_the_step(launch: Launch, settings: KubernetesSettings) -> Json:
    """Of containers that have ended when the step's starts: what it will have anyway, without its devices."""
    requests, limits = _wanted(launch, settings)
    return _both(_plain(requests), _plain(limits))


def beside_the_step(launch: Launch, settings: KubernetesSettings) -> Json:
    """Little, but said wherever the step says it: quotas refuse pods otherwise; and so that a pod with guaranteed
    resources stays one."""
    requests, limits = _wanted(launch, settings)
    allowed = {name: _HELPER_LIMITS[name] for name in _plain(limits)}
    wanted = {name: _HELPER_REQUESTS[name] for name in (*_plain(requests), *allowed)}
    wanted |= {name: text for name, text in allowed.items() if requests.get(name, limits[name]) == limits[name]}
    return _both(wanted, allowed)


def _wanted(launch: Launch, settings: KubernetesSettings) -> tuple[dict[str, str], dict[str, str]]:
    said = launch.requests.keys() | launch.limits.keys()
    requests = {name: text for name, text in settings.requests.items() if name not in said}
    limits = {name: text for name, text in settings.limits.items() if name not in said}
    return {**requests, **launch.requests}, {**limits, **launch.limits}


def _both(requests: Mapping[str, str], limits: Mapping[str, str]) -> Json:
    both = {"requests": dict(requests), "limits": dict(limits)}
    return {kind: quantities for kind, quantities in both.items() if quantities}


def _plain(quantities: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in quantities.items() if name in _HELPER_REQUESTS}
