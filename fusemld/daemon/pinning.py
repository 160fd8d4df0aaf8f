"""What a run's codeset references stand for: pinned once per run, with patience for what is out of reach."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

import msgspec

from fusemld.codesets.codesets import Codesets
from fusemld.codesets.git import credentials_of, remote_url
from fusemld.daemon.patience import patiently
from fusemld.engine.events import CodesetsPinned, CodesetsUnavailable
from fusemld.hooks.environments import Note
from fusemld.hooks.executors import PROCESS
from fusemld.hooks.services import Services
from fusemld.model.codeset import Codeset, PinnedCodeset, parse_reference
from fusemld.model.document import Document
from fusemld.model.errors import FusemldError, NotFoundError, UnavailableError
from fusemld.model.extension import Selectors, ServiceAccess
from fusemld.model.run import Run, StepState
from fusemld.registry.registry import Registry


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """`url` is empty where only this host has the files. `secrets` is the part of the credentials that must not be
    seen: what a record has among its own."""

    url: str
    credentials: Mapping[str, str] = {}
    secrets: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"Origin(url={self.url!r})"


class Pinner:
    """`registered` gives the codesets in force by `project/name`; `extensions_read` returns once the registry
    holds every record that is known to exist."""

    def __init__(
        self,
        codesets: Codesets,
        registry: Registry,
        services: Services,
        registered: Callable[[], Mapping[str, Document]],
        extensions_read: Callable[[Note], Awaitable[None]],
        *,
        zone: str,
        timeout_s: float,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._codesets = codesets
        self._registry = registry
        self._services = services
        self._registered = registered
        self._extensions_read = extensions_read
        self._zone = zone
        self._timeout_s = timeout_s
        self._clock = clock
        self._monotonic = monotonic

    async def pin(self, run: Run, references: tuple[str, ...], note: Note) -> CodesetsPinned | CodesetsUnavailable:
        """Pin them all; what may work later is tried again until the run gives up."""
        pins: dict[str, PinnedCodeset] = {}
        give_up_at = self._monotonic() + self._left_s(run)
        for reference in references:
            try:
                pins[reference] = await patiently(
                    partial(self.pin_one, reference, project=run.project, user=run.user, note=note),
                    note,
                    may_wait=lambda pause_s: self._monotonic() + pause_s < give_up_at,
                )
            except FusemldError as error:
                return CodesetsUnavailable(at=self._clock(), message=str(error))
        return CodesetsPinned(at=self._clock(), codesets=pins)

    def _left_s(self, run: Run) -> float:
        """Until the earliest deadline of the steps that wait for codesets: our error says more than that of it."""
        waiting = (step.deadline for step in run.steps.values() if step.state is StepState.WAITING)
        left = (at - self._clock() for at in waiting if at is not None)
        return min(left, default=self._timeout_s)

    async def pin_one(self, reference: str, *, project: str, user: str, note: Note) -> PinnedCodeset:
        """Raises `NotFoundError` for an unknown codeset or ref, `UnavailableError` for what may come back, and
        whatever else `Codesets.pin` raises."""
        try:
            parsed = parse_reference(reference)
        except ValueError as error:
            raise NotFoundError(f"cannot use codeset {reference!r}: {error}") from error
        document = self._registered().get(f"{parsed.project}/{parsed.name}")
        if document is None or not isinstance(document.declared, Codeset):
            raise NotFoundError(f"cannot use codeset {parsed}: no file of the watched folder declares it")
        credentials = await self._credentials(document.declared, project=project, user=user, note=note)
        try:
            return await self._codesets.pin(document.declared, parsed.ref, credentials)
        except OSError as error:
            raise UnavailableError(f"cannot pin codeset {parsed}: {error}") from error

    async def version(self, codeset: Codeset, ref: str | None) -> str:
        """What the codeset is at now, without fetching it."""
        credentials = await self._credentials(codeset, project=codeset.project, user="", note=_nobody)
        return await self._codesets.version(codeset, ref, credentials)

    async def _credentials(self, codeset: Codeset, *, project: str, user: str, note: Note) -> ServiceAccess | None:
        if codeset.extension is None:
            return None
        await self._extensions_read(note)
        return await self._registry.resolve(
            Selectors(name="codeset", extension_id=codeset.extension),
            executor=PROCESS,
            zone=self._zone,
            project=project,
            user=user,
            services=self._services,
            note=note,
        )

    async def source(self, pinned: PinnedCodeset) -> Path:
        """The read-only folder with the pinned files."""
        return await self._codesets.source(pinned)

    async def origin(self, pinned: PinnedCodeset, *, project: str, user: str, note: Note) -> Origin:
        """Where another host could fetch the pinned files from. Credentials are those of the codeset's declaration
        as it is now; without one there are none."""
        url = remote_url(pinned)
        document = self._registered().get(f"{pinned.project}/{pinned.name}")
        if not url or document is None or not isinstance(document.declared, Codeset):
            return Origin(url=url)
        access = await self._credentials(document.declared, project=project, user=user, note=note)
        found = credentials_of(access)
        if access is None or found is None:
            return Origin(url=url)
        values = {name: value for name, value in msgspec.structs.asdict(found).items() if value}
        secret = frozenset(access.configuration[name] for name in access.secret_keys)
        return Origin(url=url, credentials=values, secrets=secret.intersection(values.values()))


def _nobody(_: str) -> None:
    """For what nobody watches."""
