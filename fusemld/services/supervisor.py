"""The supervisor of embedded services and of the servers of applications."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskGroup, TaskStatus

from fusemld.hooks.environments import Environments, Note
from fusemld.hooks.processes import Processes
from fusemld.hooks.services import ServiceAddress, ServiceKind, ServiceRequest
from fusemld.model.errors import FusemldError, InvalidInputError, UnavailableError, may_pass
from fusemld.model.service import ServiceRecord, ServiceState
from fusemld.services.backoff import Backoff
from fusemld.services.credentials import ensure_credentials
from fusemld.services.endings import Endings
from fusemld.services.persistence import ServicePersistence
from fusemld.services.ports import LOOPBACK, choose_port
from fusemld.services.start import PREFIX, Tools, kind_of
from fusemld.services.supervised import Supervised

_log = structlog.get_logger(__name__)


class ServiceSupervisor:
    """Implements `fusemld.hooks.services.Services`.

    Services live below `state_folder/services`, their logs below `state_folder/logs/services`. Nothing works
    before `run` is ready, and cancelling `run` leaves every service running.
    """

    def __init__(
        self,
        processes: Processes,
        environments: Environments,
        kinds: Mapping[str, ServiceKind],
        state_folder: Path,
        persistence: ServicePersistence,
        *,
        backoff: Backoff | None = None,
    ) -> None:
        self._folder = state_folder / "services"
        self._persistence = persistence
        self._backoff = backoff or Backoff()
        self._tools = Tools(
            processes=processes,
            environments=environments,
            endings=Endings(processes, PREFIX, self._heard),
            kinds=kinds,
            logs=state_folder / "logs" / "services",
        )
        self._services: dict[str, Supervised] = {}
        self._watches: dict[str, anyio.CancelScope] = {}
        self._creating = anyio.Lock()
        self._group: TaskGroup | None = None
        self._stopped = False

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Take up the services that are recorded and supervise until cancelled. Ready once they are known;
        those that died meanwhile are started again in the background."""
        await self._refresh()
        for record in await self._persistence.load():
            await self._take_in(record)
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                for name in self._services:
                    group.start_soon(self._watch, name, True, name=f"service {name}")
                task_status.started()
                await anyio.sleep_forever()
        finally:
            self._group = None

    async def _take_in(self, record: ServiceRecord) -> None:
        """One whose folder cannot be made or read for now is tried again."""
        failures = 0
        while True:
            try:
                self._services[record.name] = self._supervised(record)
            except (FusemldError, OSError) as error:
                if not isinstance(error, OSError) or not may_pass(error):
                    _log.error("service.unusable", service=record.name, error=str(error))
                    return
                _log.warning("service.not_taken_up", service=record.name, error=str(error))
            else:
                return
            await anyio.sleep(self._backoff.delay_s(failures))
            failures += 1

    async def _refresh(self) -> None:
        """Where the keeper goes away while it is asked, the next one knows the same."""
        failures = 0
        while True:
            try:
                return await self._tools.endings.refresh()
            except UnavailableError as error:
                _log.warning("services.not_known", error=str(error))
            await anyio.sleep(self._backoff.delay_s(failures))
            failures += 1

    async def ensure(self, request: ServiceRequest, note: Note) -> ServiceAddress:
        if self._group is None or self._stopped:
            raise UnavailableError(f"cannot start service {request.name}: the supervisor is not running")
        async with self._creating:
            service = self._services.get(request.name) or await self._create(request)
        return await service.ensure(request, note)

    async def remove(self, name: str) -> None:
        if (service := self._services.get(name)) is None:
            await self._persistence.delete(name)  # raises for one that is recorded, and not known all the same
            return
        await service.remove()
        self._services.pop(name, None)
        if (watch := self._watches.pop(name, None)) is not None:
            watch.cancel()

    def find(self, name: str) -> ServiceAddress | None:
        service = self._services.get(name)
        return service.address if service is not None else None

    def folder(self, name: str) -> Path:
        if not name or name in (".", "..") or "/" in name or "\0" in name:
            raise InvalidInputError(f"cannot use {name!r} as the name of a service")
        return self._folder / name

    def states(self) -> tuple[ServiceState, ...]:
        """Every service, by name."""
        return tuple(self._services[name].state for name in sorted(self._services))

    async def stop_all(self, grace_s: float = 10.0) -> None:
        """Stop every service; nothing is started any more. The next daemon starts them again."""
        self._stopped = True
        async with anyio.create_task_group() as group:
            for service in self._services.values():
                group.start_soon(service.halt, grace_s)

    async def _create(self, request: ServiceRequest) -> Supervised:
        """The first number is taken from the clock: a service may be removed, and made anew under its name."""
        kind_of(self._tools, request.kind)
        ports = {service.record.port for service in self._services.values()}
        record = ServiceRecord(
            name=request.name,
            kind=request.kind,
            parameters=dict(request.parameters),
            host=LOOPBACK,
            port=choose_port(ports),
            counter=int(time.time()),
        )
        service = self._supervised(record)
        await self._persistence.save(record)
        self._services[request.name] = service
        assert self._group is not None
        self._group.start_soon(self._watch, request.name, False, name=f"service {request.name}")
        return service

    def _supervised(self, record: ServiceRecord) -> Supervised:
        folder = self.folder(record.name)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        kind = self._tools.kinds.get(record.kind)
        credentials = ensure_credentials(folder, kind.credentials if kind is not None else ())
        address = ServiceAddress(
            name=record.name, host=record.host, port=record.port, folder=folder, credentials=credentials
        )
        return Supervised(record, address, self._tools, self._persistence, self._peers, self._backoff)

    async def _watch(self, name: str, adopt: bool) -> None:
        service = self._services[name]
        with anyio.CancelScope() as scope:
            self._watches[name] = scope
            if adopt:
                try:
                    await service.adopt()
                except (FusemldError, OSError) as error:
                    _log.warning("service.not_adopted", service=name, error=str(error))
                    service.attend()
            await service.supervise()

    async def _peers(self, kind: str, note: Note) -> Mapping[str, ServiceAddress]:
        peers: dict[str, ServiceAddress] = {}
        for peer in kind_of(self._tools, kind).requires:
            known = self._services.get(peer)
            parameters = known.record.parameters if known is not None else {}
            peers[peer] = await self.ensure(ServiceRequest(name=peer, kind=peer, parameters=parameters), note)
        return peers

    def _heard(self, key: str) -> None:
        if (service := self._services.get(key.removeprefix(PREFIX).rpartition("/")[0])) is not None:
            service.attend()
