"""What a run's codeset references stand for: pinned once per run, with patience for what is out of reach."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import anyio

from fusemld.codesets.codesets import Codesets
from fusemld.engine.events import CodesetsPinned, CodesetsUnavailable
from fusemld.hooks.environments import Note
from fusemld.hooks.services import Services
from fusemld.model.backoff import backoff_s
from fusemld.model.codeset import Codeset, PinnedCodeset, parse_reference
from fusemld.model.document import Document
from fusemld.model.errors import FusemldError, NotFoundError, UnavailableError
from fusemld.model.extension import Selectors, ServiceAccess
from fusemld.model.run import Run
from fusemld.registry.registry import Registry

LONGEST_BACKOFF_S = 60.0


class Pinner:
    """`registered` gives the codesets in force by `project/name`."""

    def __init__(
        self,
        codesets: Codesets,
        registry: Registry,
        services: Services,
        registered: Callable[[], Mapping[str, Document]],
        *,
        zone: str,
        timeout_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._codesets = codesets
        self._registry = registry
        self._services = services
        self._registered = registered
        self._zone = zone
        self._timeout_s = timeout_s
        self._clock = clock

    async def pin(self, run: Run, references: tuple[str, ...], note: Note) -> CodesetsPinned | CodesetsUnavailable:
        """Pin them all; what may work later is tried again until the time is over."""
        pins: dict[str, PinnedCodeset] = {}
        for reference in references:
            try:
                pins[reference] = await self._patiently(run, reference, note)
            except FusemldError as error:
                return CodesetsUnavailable(at=self._clock(), message=str(error))
        return CodesetsPinned(at=self._clock(), codesets=pins)

    async def _patiently(self, run: Run, reference: str, note: Note) -> PinnedCodeset:
        give_up_at = run.created_at + self._timeout_s
        tries = 0
        while True:
            try:
                return await self.pin_one(reference, project=run.project, user=run.user)
            except UnavailableError as error:
                tries += 1
                pause_s = backoff_s(tries, 1.0, LONGEST_BACKOFF_S)
                if self._clock() + pause_s > give_up_at:
                    raise
                note(f"{error}; trying again in {pause_s:.0f} s")
                await anyio.sleep(pause_s)

    async def pin_one(self, reference: str, *, project: str, user: str) -> PinnedCodeset:
        """Raises `NotFoundError` for an unknown codeset or ref, `UnavailableError` for what may come back."""
        try:
            parsed = parse_reference(reference)
        except ValueError as error:
            raise NotFoundError(f"cannot use codeset {reference!r}: {error}") from error
        document = self._registered().get(f"{parsed.project}/{parsed.name}")
        if document is None or not isinstance(document.declared, Codeset):
            raise NotFoundError(f"cannot use codeset {parsed}: no file of the watched folder declares it")
        credentials = await self.credentials(document.declared, project=project, user=user)
        return await self._codesets.pin(document.declared, parsed.ref, credentials)

    async def version(self, codeset: Codeset, ref: str | None) -> str:
        """What the codeset is at now, without fetching it."""
        credentials = await self.credentials(codeset, project=codeset.project, user="")
        return await self._codesets.version(codeset, ref, credentials)

    async def credentials(self, codeset: Codeset, *, project: str, user: str) -> ServiceAccess | None:
        if codeset.extension is None:
            return None
        wanted = Selectors(name="codeset", extension_id=codeset.extension)
        return await self._registry.resolve(
            wanted,
            executor="process",
            zone=self._zone,
            project=project,
            user=user,
            services=self._services,
            note=lambda _: None,
        )

    async def source(self, pinned: PinnedCodeset) -> Path:
        """The read-only folder with the pinned files."""
        return await self._codesets.source(pinned)
