"""The records that are known, and the resolution of requirements with them and with resolvers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import anyio.to_thread
import msgspec

from fusemld.hooks.clusters import Clusters
from fusemld.hooks.environments import Note
from fusemld.hooks.resolvers import CheckResult, Resolver
from fusemld.hooks.services import Services
from fusemld.kube.clusters import KubeClusters
from fusemld.model.errors import FusemldError, NotFoundError, StartError
from fusemld.model.extension import Extension, ResolvedService, Selectors, ServiceAccess
from fusemld.model.workflow import Requirement, Workflow
from fusemld.registry.cluster_secrets import read_secrets
from fusemld.registry.credentials import AllowedSources, access_to, secret_keys
from fusemld.registry.explain import Explanation, failure, known_selectors, wanted
from fusemld.registry.matching import Candidate, Match, match

_EXECUTORS = ("process", "kubernetes")


class ServiceCheck(msgspec.Struct, frozen=True, kw_only=True):
    """`service` is None where nobody knows how to check it; `message` says so then."""

    extension_id: str
    service_id: str
    service: ResolvedService | None
    result: CheckResult


class Registry:
    """Holds records in memory. Matching sees them in the order of their ids, whatever they arrived in."""

    def __init__(
        self,
        resolvers: Iterable[Resolver] = (),
        allowed: AllowedSources | None = None,
        clusters: Clusters | None = None,
    ) -> None:
        self._resolvers = tuple(sorted(resolvers, key=lambda resolver: resolver.name))
        self._allowed = allowed or AllowedSources()
        self._clusters = clusters or KubeClusters(None)
        self._records: dict[str, Extension] = {}

    def upsert(self, record: Extension) -> None:
        self._records[record.id] = record

    def remove(self, extension_id: str) -> None:
        """Unknown ids are ignored."""
        self._records.pop(extension_id, None)

    def get(self, extension_id: str) -> Extension:
        """Raises `NotFoundError`."""
        try:
            return self._records[extension_id]
        except KeyError:
            raise NotFoundError(f"there is no extension {extension_id!r}") from None

    def list(self) -> tuple[Extension, ...]:
        return tuple(self._records[id_] for id_ in sorted(self._records))

    def secret_keys(self, requirement: Requirement | Selectors) -> frozenset[str]:
        """The configuration keys that may turn out to be credentials, as far as records say."""
        return secret_keys(requirement, self._records.values())

    async def resolve(
        self,
        selectors: Selectors,
        *,
        executor: str,
        zone: str,
        project: str,
        user: str,
        services: Services,
        note: Note,
    ) -> ServiceAccess:
        """The service that the requirement means now. A resolver is asked only if no record comes near.

        Raises `StartError` where there is none, saying what refused each that comes near, and `UnavailableError`
        where a resolver cannot reach what it needs.
        """
        found = match(selectors, self.list(), zone=zone, project=project, user=user)
        if found.chosen is None and not found.near_misses:
            resolver, found = self._offered(selectors, executor=executor, zone=zone, project=project, user=user)
            if resolver is not None and found.chosen is not None:
                offer = found.chosen
                record = await resolver.access(
                    offer.extension.id, offer.service.id, services, self._clusters, note
                )
                found = match(selectors, [record], zone=zone, project=project, user=user)
        if found.chosen is None:
            raise StartError(failure(selectors, found))
        return await self._access(found.chosen, selectors.name)

    def explain(
        self,
        workflow: Workflow,
        *,
        executor: str,
        zone: str,
        project: str,
        user: str,
        inputs: Mapping[str, str] | None = None,
    ) -> tuple[Explanation, ...]:
        """For every requirement what it would be resolved to now; nothing is started and no secret is read."""
        return tuple(
            self._explain(step.name, requirement, workflow, inputs or {}, executor, zone, project, user)
            for step in workflow.steps
            for requirement in step.extensions
        )

    async def check(self, extension_id: str, *, zone: str, project: str, user: str) -> tuple[ServiceCheck, ...]:
        """Ask the live services of a record whether it is right; what cannot be asked is a result that is not ok.

        Raises `NotFoundError` where there is no such record."""
        record = self.get(extension_id)
        return tuple(
            [
                await self._check(record, service_id, zone=zone, project=project, user=user)
                for service_id in sorted(service.id for service in record.services)
            ]
        )

    async def _check(
        self, record: Extension, service_id: str, *, zone: str, project: str, user: str
    ) -> ServiceCheck:
        selectors = Selectors(name=record.id, extension_id=record.id, service_id=service_id)
        found = match(selectors, [record], zone=zone, project=project, user=user)
        if found.chosen is None:
            result = CheckResult(ok=False, message=failure(selectors, found))
            return ServiceCheck(extension_id=record.id, service_id=service_id, service=None, result=result)
        resource = found.chosen.service.resource
        resolver = next((entry for entry in self._resolvers if resource in entry.resources), None)
        service: ResolvedService | None = None
        if resolver is None:
            result = CheckResult(
                ok=True, message=f"not checked: no plugin knows services of resource {resource!r}"
            )
        else:
            try:
                access = await self._access(found.chosen, record.id)
                service = access.service
                result = await resolver.check(access, self._clusters)
            except FusemldError as error:
                result = CheckResult(ok=False, message=str(error))
        return ServiceCheck(extension_id=record.id, service_id=service_id, service=service, result=result)

    async def again(self, service: ResolvedService, *, services: Services, note: Note) -> ServiceAccess:
        """Access to what a requirement was resolved to before, with the credentials that were used then:
        whoever asks answers for that. Raises `NotFoundError` where its record, endpoint or credentials are
        gone."""
        record = self._records.get(service.extension_id)
        if record is None:
            record = await self._offered_again(service, services, note)
        found = next((each for each in record.services if each.id == service.service_id), None)
        where = f"{service.extension_id}/{service.service_id}"
        if found is None:
            raise NotFoundError(f"cannot use {where} again: the extension has no such service any more")
        credentials = next((each for each in found.credentials if each.id == service.credentials_id), None)
        if credentials is None and service.credentials_id is not None:
            raise NotFoundError(f"cannot use {where} again: its credentials {service.credentials_id} are gone")
        endpoint = next((each for each in found.endpoints if each.url == service.url), None)
        if endpoint is None and service.url:
            raise NotFoundError(f"cannot use {where} again: its endpoint {service.url} is gone")
        candidate = Candidate(extension=record, service=found, endpoint=endpoint, credentials=credentials)
        return await self._access(candidate, service.requirement)

    async def _offered_again(self, service: ResolvedService, services: Services, note: Note) -> Extension:
        for resolver in self._resolvers:
            offers = [offer for executor in _EXECUTORS for offer in resolver.offers(executor)]
            if any(offer.id == service.extension_id for offer in offers):
                return await resolver.access(
                    service.extension_id, service.service_id, services, self._clusters, note
                )
        raise NotFoundError(f"cannot use {service.extension_id} again: there is no such extension any more")

    async def _access(self, candidate: Candidate, requirement: str) -> ServiceAccess:
        secrets = await read_secrets(candidate, self._allowed.secrets, self._clusters.configured)
        return await anyio.to_thread.run_sync(access_to, candidate, requirement, self._allowed, secrets)

    def _offered(
        self, selectors: Selectors, *, executor: str, zone: str, project: str, user: str
    ) -> tuple[Resolver | None, Match]:
        """The best offer of all resolvers and whose it is."""
        owners: dict[str, Resolver] = {}
        offers: list[Extension] = []
        for resolver in self._resolvers:
            for offer in resolver.offers(executor):
                owners.setdefault(offer.id, resolver)
                offers += [offer] if owners[offer.id] is resolver else []
        found = match(selectors, offers, zone=zone, project=project, user=user, offers=True)
        return (None if found.chosen is None else owners[found.chosen.extension.id]), found

    def _explain(
        self,
        step: str,
        requirement: Requirement,
        workflow: Workflow,
        inputs: Mapping[str, str],
        executor: str,
        zone: str,
        project: str,
        user: str,
    ) -> Explanation:
        known = known_selectors(requirement, workflow, inputs)
        found = match(known.selectors, self.list(), zone=zone, project=project, user=user)
        source = "record"
        if found.chosen is None and not found.near_misses:
            resolver, found = self._offered(
                known.selectors, executor=executor, zone=zone, project=project, user=user
            )
            source = "" if resolver is None else f"resolver {resolver.name}"
        services = _distinct(found.candidates, requirement.name)
        message = failure(known.selectors, found, known.unknown)
        if services:
            where = f" at {services[0].url}" if services[0].url else ""
            message = f"{services[0].extension_id}/{services[0].service_id}{where} is picked ({source})"
        return Explanation(
            step=step,
            requirement=requirement.name,
            selectors=wanted(known.selectors),
            service=services[0] if services else None,
            source=source if services else "",
            alternatives=tuple(services[1:]),
            near_misses=found.near_misses,
            unknown=known.unknown,
            message=message,
        )


def _distinct(candidates: Sequence[Candidate], requirement: str) -> list[ResolvedService]:
    return list(dict.fromkeys(candidate.resolved(requirement) for candidate in candidates))
