"""What the API returns of the Extension Registry; see `fusemld.api.views`."""

from __future__ import annotations

import msgspec

from fusemld.api.views import View
from fusemld.model.extension import EndpointType, ResolvedService, Scope


class EndpointView(View, frozen=True, kw_only=True):
    url: str
    type: EndpointType
    configuration: dict[str, str] = msgspec.field(default_factory=dict)


class CredentialsView(View, frozen=True, kw_only=True):
    """`configuration` has the keys; every value is `HIDDEN`."""

    id: str
    scope: Scope
    default: bool = False
    projects: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    configuration: dict[str, str] = msgspec.field(default_factory=dict)


class ExtensionServiceView(View, frozen=True, kw_only=True):
    id: str
    resource: str = ""
    category: str = ""
    auth_required: bool = False
    description: str = ""
    configuration: dict[str, str] = msgspec.field(default_factory=dict)
    endpoints: tuple[EndpointView, ...] = ()
    credentials: tuple[CredentialsView, ...] = ()


class ExtensionView(View, frozen=True, kw_only=True):
    """`origin` is the file that declares it, or `plugin NAME` for what a resolver offers."""

    id: str
    product: str = ""
    version: str = ""
    zone: str = ""
    description: str = ""
    configuration: dict[str, str] = msgspec.field(default_factory=dict)
    services: tuple[ExtensionServiceView, ...] = ()
    origin: str = ""


class NearMissView(View, frozen=True, kw_only=True):
    """A service that was not picked; `selector` is the first one that refused it, `reason` says why in words."""

    extension_id: str
    service_id: str = ""
    selector: str
    reason: str


class ExplainedRequirement(View, frozen=True, kw_only=True):
    """`picked` is None where nothing fits; `reason` says why this one, or why none. `wanted` are the selectors,
    `unknown` those whose expressions have no value before there is a run: the outcome is that of the others."""

    step: str
    requirement: str
    wanted: dict[str, str]
    unknown: tuple[str, ...] = ()
    picked: ResolvedService | None = None
    origin: str = ""
    reason: str = ""
    near_misses: tuple[NearMissView, ...] = ()


class ExplanationView(View, frozen=True, kw_only=True):
    workflow: str
    project: str
    user: str
    zone: str = ""
    requirements: tuple[ExplainedRequirement, ...] = ()


class CheckView(View, frozen=True, kw_only=True):
    """What the live service said about one service of a record."""

    extension_id: str
    service_id: str
    url: str = ""
    ok: bool
    message: str
