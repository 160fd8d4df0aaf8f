"""Records of the Extension Registry and what a requirement was resolved to."""

from __future__ import annotations

import enum

import msgspec


class EndpointType(enum.StrEnum):
    INTERNAL = "internal"
    EXTERNAL = "external"


class Scope(enum.StrEnum):
    GLOBAL = "global"
    PROJECT = "project"
    USER = "user"


class SecretReference(msgspec.Struct, frozen=True, kw_only=True):
    """A value that is kept elsewhere; exactly one field is set. Only within what the settings allow."""

    from_env: str | None = None
    from_file: str | None = None
    from_secret: str | None = None


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    type: EndpointType = EndpointType.EXTERNAL
    configuration: dict[str, str] = {}


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """`configuration` is secret: never logged, shown, stored in the database or put in a command line."""

    id: str
    scope: Scope = Scope.GLOBAL
    default: bool = False
    projects: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    configuration: dict[str, str | SecretReference] = {}

    def __repr__(self) -> str:
        return f"Credentials(id={self.id!r}, scope={self.scope!r}, configuration=<hidden>)"


class Service(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    resource: str = ""
    category: str = ""
    auth_required: bool = False
    description: str = ""
    configuration: dict[str, str] = {}
    endpoints: tuple[Endpoint, ...] = ()
    credentials: tuple[Credentials, ...] = ()


class Extension(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    product: str = ""
    version: str = ""
    zone: str = ""
    description: str = ""
    configuration: dict[str, str] = {}
    services: tuple[Service, ...] = ()


class Selectors(msgspec.Struct, frozen=True, kw_only=True):
    """A requirement with its expressions rendered. None: anything goes."""

    name: str
    extension_id: str | None = None
    service_id: str | None = None
    product: str | None = None
    version: str | None = None
    zone: str | None = None
    service_resource: str | None = None
    service_category: str | None = None


class ResolvedService(msgspec.Struct, frozen=True, kw_only=True):
    """What a run records of a resolution: ids and URLs, never a value of a credential."""

    requirement: str
    extension_id: str
    service_id: str
    url: str = ""
    credentials_id: str | None = None
    product: str = ""
    version: str = ""
    zone: str = ""
    service_resource: str = ""
    service_category: str = ""


class ServiceAccess(msgspec.Struct, frozen=True, kw_only=True):
    """A resolved service with its merged configuration, in memory only.

    `secret_keys` are the keys of `configuration` whose value came from credentials.
    """

    service: ResolvedService
    configuration: dict[str, str] = {}
    secret_keys: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"ServiceAccess(service={self.service!r}, configuration=<{len(self.configuration)} hidden>)"
