"""Which service of which record a requirement means: pure, and independent of the order of the records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from fusemld.model.extension import (
    Credentials,
    Endpoint,
    EndpointType,
    Extension,
    ResolvedService,
    Scope,
    Selectors,
    Service,
)
from fusemld.registry.versions import is_malformed, version_agrees

_BEYOND_SELECTORS: Final = frozenset({"zone", "credentials"})
"""What refuses a service only after every selector has agreed with it."""
_NARROWNESS: Final = {Scope.USER: 0, Scope.PROJECT: 1, Scope.GLOBAL: 2}


class NearMiss(msgspec.Struct, frozen=True, kw_only=True):
    """A service that comes near. `selector` is the first that refused it, or `credentials` or `services`; `reason`
    says why, and what would help; it never holds a value of a credential."""

    extension_id: str
    service_id: str
    selector: str
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.extension_id}/{self.service_id}: {self.reason}"
            if self.service_id
            else (f"{self.extension_id}: {self.reason}")
        )


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A service that matches, seen through one of its endpoints."""

    extension: Extension
    service: Service
    endpoint: Endpoint | None = None
    credentials: Credentials | None = None
    in_zone: bool = False

    def resolved(self, requirement: str) -> ResolvedService:
        return ResolvedService(
            requirement=requirement,
            extension_id=self.extension.id,
            service_id=self.service.id,
            url="" if self.endpoint is None else self.endpoint.url,
            credentials_id=None if self.credentials is None else self.credentials.id,
            product=self.extension.product,
            version=self.extension.version,
            zone=self.extension.zone,
            service_resource=self.service.resource,
            service_category=self.service.category,
        )


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """`candidates` are in order of preference: the first is chosen."""

    candidates: tuple[Candidate, ...] = ()
    near_misses: tuple[NearMiss, ...] = ()

    @property
    def chosen(self) -> Candidate | None:
        return self.candidates[0] if self.candidates else None


def match(
    selectors: Selectors,
    records: Iterable[Extension],
    *,
    zone: str,
    project: str,
    user: str,
    offers: bool = False,
) -> Match:
    """`zone` is the executor's; the requirement's own takes its place. `offers` need no endpoint."""
    zone = selectors.zone or zone
    candidates: list[Candidate] = []
    near_misses: list[NearMiss] = []
    for record in records:
        if not record.services and _is_near(selectors, record, None):
            near_misses.append(_missed(record, None, "services", "it has no services: add one to the record"))
        for service in record.services:
            found = _match_service(
                selectors, record, service, zone=zone, project=project, user=user, offers=offers
            )
            if not isinstance(found, NearMiss):
                candidates += found
            elif found.selector in _BEYOND_SELECTORS or _is_near(selectors, record, service):
                near_misses.append(found)
    return Match(
        candidates=tuple(sorted(candidates, key=_preference)),
        near_misses=tuple(sorted(near_misses, key=lambda miss: (miss.extension_id, miss.service_id))),
    )


def usable_credentials(service: Service, *, project: str, user: str) -> Credentials | None:
    """The narrowest scope that covers user and project, then the default, then the id in order."""
    usable = [entry for entry in service.credentials if _covers(entry, project=project, user=user)]
    return min(usable, key=lambda entry: (_NARROWNESS[entry.scope], not entry.default, entry.id), default=None)


def refusal(selectors: Selectors, record: Extension, service: Service) -> tuple[str, str] | None:
    """The first selector with which the service does not agree, and the reason."""
    for selector, wanted, actual in _compared(selectors, record, service):
        if wanted is None:
            continue
        agrees = version_agrees(wanted, actual) if selector == "version" else wanted == actual
        if not agrees and selector == "version" and is_malformed(wanted):
            return (
                selector,
                f"{wanted!r} is no version constraint: write for instance '>=1.0,<1.5', '~1.10' or '^2'",
            )
        if not agrees:
            has = repr(actual) if actual else "not set"
            return selector, f"its {_WORDS[selector]} is {has}, and {wanted!r} is required"
    return None


_WORDS: Final = {
    "extension_id": "extension id",
    "product": "product",
    "version": "version",
    "service_id": "id",
    "service_resource": "resource",
    "service_category": "category",
}


def _compared(selectors: Selectors, record: Extension, service: Service) -> Iterator[tuple[str, str | None, str]]:
    yield "extension_id", selectors.extension_id, record.id
    yield "product", selectors.product, record.product
    yield "version", selectors.version, record.version
    yield "service_id", selectors.service_id, service.id
    yield "service_resource", selectors.service_resource, service.resource
    yield "service_category", selectors.service_category, service.category


def _match_service(
    selectors: Selectors,
    record: Extension,
    service: Service,
    *,
    zone: str,
    project: str,
    user: str,
    offers: bool,
) -> list[Candidate] | NearMiss:
    if (refused := refusal(selectors, record, service)) is not None:
        return _missed(record, service, *refused)
    in_zone = record.zone == zone
    if offers:
        return [Candidate(extension=record, service=service, in_zone=in_zone)]
    credentials = usable_credentials(service, project=project, user=user)
    everywhere = in_zone or not record.zone
    endpoints = [entry for entry in service.endpoints if everywhere or entry.type is EndpointType.EXTERNAL]
    if service.endpoints and not endpoints:
        reason = (
            f"its endpoints are internal to the zone {record.zone!r}, and the step is in the zone {zone!r}: "
            "add an external endpoint"
        )
        return _missed(record, service, "zone", reason)
    if service.auth_required and credentials is None:
        reason = (
            f"it needs authentication, and none of its credentials is for user {user!r} in project {project!r}: "
            "add credentials of a scope that covers them"
        )
        return _missed(record, service, "credentials", reason)
    seen_through: list[Endpoint | None] = [*endpoints] or [None]
    return [
        Candidate(extension=record, service=service, endpoint=endpoint, credentials=credentials, in_zone=in_zone)
        for endpoint in seen_through
    ]


def _missed(record: Extension, service: Service | None, selector: str, reason: str) -> NearMiss:
    service_id = "" if service is None else service.id
    return NearMiss(extension_id=record.id, service_id=service_id, selector=selector, reason=reason)


def _is_near(selectors: Selectors, record: Extension, service: Service | None) -> bool:
    """Right record, product, service, resource or category: somebody meant it, or might have."""
    pairs = [(selectors.extension_id, record.id), (selectors.product, record.product)]
    if service is not None:
        pairs += [
            (selectors.service_id, service.id),
            (selectors.service_resource, service.resource),
            (selectors.service_category, service.category),
        ]
    return any(wanted is not None and wanted == actual for wanted, actual in pairs)


def _covers(credentials: Credentials, *, project: str, user: str) -> bool:
    for_project = project in credentials.projects
    for_user = user in credentials.users
    match credentials.scope:
        case Scope.GLOBAL:
            return True
        case Scope.PROJECT:
            return for_project and (for_user or not credentials.users)
        case Scope.USER:
            return for_user and (for_project or not credentials.projects)


def _preference(candidate: Candidate) -> tuple[bool, bool, str, str, str]:
    endpoint = candidate.endpoint
    is_internal = endpoint is not None and endpoint.type is EndpointType.INTERNAL
    url = "" if endpoint is None else endpoint.url
    return (not candidate.in_zone, not is_internal, candidate.extension.id, candidate.service.id, url)
