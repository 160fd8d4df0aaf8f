"""One service: its record, its processes, and what is done to keep exactly one of them serving."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping

import anyio
import structlog
from anyio import to_thread
from msgspec.structs import replace

from fusemld.hooks.environments import Note
from fusemld.hooks.services import ServiceAddress, ServiceRequest
from fusemld.model import faults
from fusemld.model.errors import FusemldError, StartError, UnavailableError
from fusemld.model.service import ServiceCondition, ServiceRecord, ServiceState
from fusemld.services import start as starting
from fusemld.services.backoff import Backoff
from fusemld.services.endings import in_words
from fusemld.services.persistence import ServicePersistence
from fusemld.services.start import Start, Tools, key_of, log_of

_log = structlog.get_logger(__name__)

Peers = Callable[[str, Note], Awaitable[Mapping[str, ServiceAddress]]]
"""The running services that a kind requires."""

_GRACE_S = 30.0
_END_S = 30.0
_SAVE_S = 3.0
_CHECK_S = 60.0
_LOGS_KEPT = 5


class Supervised:
    """Changes happen one after the other, under a lock, and are recorded before and after, so that whatever was
    interrupted is put right by `_settle`: the recorded `start` is the process that may live, all others end."""

    def __init__(
        self,
        record: ServiceRecord,
        address: ServiceAddress,
        tools: Tools,
        persistence: ServicePersistence,
        peers: Peers,
        backoff: Backoff,
    ) -> None:
        self.record = record
        self.address = address
        self._tools = tools
        self._persistence = persistence
        self._peers = peers
        self._backoff = backoff
        self._lock = anyio.Lock()
        self._attention = anyio.Event()
        self._told_to_stop: set[str] = set()
        self._grace_s = _GRACE_S
        self._condition = ServiceCondition.STOPPED
        self._since = time.time()
        self._message = ""
        self._again_at = 0.0
        """When it is started again (`time.monotonic`), where it waits for that."""
        self._halted = False

    # What others see

    @property
    def state(self) -> ServiceState:
        alive = self._is_alive()
        return ServiceState(
            name=self.record.name,
            kind=self.record.kind,
            state=self._condition,
            url=self.address.url,
            since=self._since,
            pid=self._tools.endings.pid(self._key()) if alive else None,
            message=self._words(),
            log=str(log_of(self._tools, self.record.name, self.record.start)),
            starts=self.record.starts,
        )

    def attend(self) -> None:
        """Something happened to one of its processes."""
        self._attention.set()

    async def ensure(self, request: ServiceRequest, note: Note) -> ServiceAddress:
        """See `fusemld.hooks.services.Services.ensure`."""
        async with self._lock:
            await self._settle()
            planned = await self._plan(request.kind, request.parameters, note)
            same = (self.record.kind, self.record.parameters) == (request.kind, dict(request.parameters))
            if same and self._is_alive() and await self._still_answers(planned, note):
                return self.address
            if same or not self.record.wanted:
                await self._begin(planned, note)
            else:
                await self._replace(planned, note)
        return self.address

    async def adopt(self) -> None:
        """Take up what an earlier daemon left, starting again what has died meanwhile."""
        async with self._lock:
            await self._settle()
            if not self.record.wanted:
                # Its first start was cut short; who asked for it asks again.
                await self._end_all(self._grace_s)
            elif self._is_alive():
                await self._take_up()
            else:
                await self._start_again()

    async def supervise(self) -> None:
        """Starts the service again whenever it is found dead; returns only by cancellation."""
        failures = 0
        while True:
            await self._attention.wait()
            self._attention = anyio.Event()
            async with self._lock:
                await self._tidy()
                if self._is_well():
                    continue
                if self._was_ready_for(self._backoff.forgiven_after_s):
                    failures = 0
                delay_s = self._backoff.delay_s(failures)
                self._retry_later(delay_s)
            await anyio.sleep(delay_s)
            async with self._lock:
                failures = 0 if self._is_well() else failures + 1
                if failures:
                    await self._start_again()

    async def halt(self, grace_s: float) -> None:
        """Stop its processes; the next daemon starts it again."""
        async with self._lock:
            self._halted = True
            await self._end_all(grace_s)
            self._become(ServiceCondition.STOPPED, "stopped; starts again with the daemon")

    async def remove(self) -> None:
        """Stop it for good and delete everything of it. Raises `UnavailableError` where that fails for now."""
        async with self._lock:
            self._halted = True
            await self._save(replace(self.record, wanted=False))
            faults.point("service.unwanted")
            await self._end_all(self._grace_s)
            for key in self._keys():
                await self._tools.endings.forget(key)
            await self._tools.processes.close_listener(starting.listener_name(self.record.name))
            await to_thread.run_sync(self._remove_folder)
            faults.point("service.removed")
            await self._persistence.delete(self.record.name)

    def _remove_folder(self) -> None:
        """What is in it goes, also where it is itself a link to another disk, or where one is mounted."""
        folder = self.address.folder
        try:
            if not folder.exists():
                return
            for entry in folder.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
            if folder.is_symlink():
                folder.unlink()
            elif not folder.is_mount():
                folder.rmdir()
        except OSError as error:
            raise UnavailableError(f"cannot remove the folder of service {self.record.name}: {error}") from error

    # Starting; the lock is held

    async def _plan(self, kind: str, parameters: Mapping[str, str], note: Note) -> Start:
        peers = await self._peers(kind, note)
        return await starting.plan(self._tools, kind, self.address, dict(parameters), peers, note)

    async def _begin(self, planned: Start, note: Note) -> None:
        """Start it and have it alone; whatever of it still runs ends first."""
        number = self.record.counter + 1
        parameters = dict(planned.context.parameters)
        await self._end_all(self._grace_s)
        await self._save(
            replace(
                self.record,
                kind=planned.kind,
                parameters=parameters,
                start=number,
                counter=number,
                starts=self.record.starts + 1,
            )
        )
        self._become(ServiceCondition.STARTING, "")
        try:
            await self._launch(planned, number, note)
            await self._save(replace(self.record, wanted=True))
        except BaseException as error:
            message = str(error) if isinstance(error, FusemldError) else "its start was interrupted"
            self._become(ServiceCondition.BACKOFF if self.record.wanted else ServiceCondition.FAILED, message)
            self.attend()
            raise
        self._become(ServiceCondition.READY, "")

    async def _replace(self, planned: Start, note: Note) -> None:
        """Have a process with other parameters take over; what served before goes on serving if it cannot."""
        number, before = self.record.counter + 1, self.record.start
        parameters = dict(planned.context.parameters)
        beside = planned.plan.inherit_socket and planned.kind == self.record.kind
        await self._save(replace(self.record, replacement=number, counter=number, starts=self.record.starts + 1))
        try:
            if not beside:
                self._become(ServiceCondition.STARTING, "restarting with other parameters")
                await self._end_all(self._grace_s)
            await self._launch(planned, number, note)
            await self._save(
                replace(
                    self.record,
                    kind=planned.kind,
                    parameters=parameters,
                    start=number,
                    replacement=0,
                    wanted=True,
                )
            )
        except BaseException as error:
            await self._abandon(number)
            if isinstance(error, FusemldError) and not self._is_alive():
                await self._start_again()
            self.attend()
            raise
        self._become(ServiceCondition.READY, "")
        faults.point("service.replaced")
        await self._stop_key(key_of(self.record.name, before), self._grace_s)

    async def _launch(self, planned: Start, number: int, note: Note) -> None:
        """Start process `number` and wait until it is ready; it is told to stop if that fails in any way."""
        note(f"starting {self.record.name}")
        self._grace_s = planned.plan.grace_s
        faults.point("service.recorded")
        try:
            await starting.spawn(self._tools, planned, number)
            faults.point("service.spawned")
            await starting.wait_until_ready(self._tools, planned, number, note)
            faults.point("service.ready")
        except BaseException:
            await self._abandon(number)
            raise
        _log.info("service.ready", service=self.record.name, start=number, url=self.address.url)

    async def _start_again(self) -> None:
        """Start what is recorded; if that fails it is tried again later."""
        try:
            await self._begin(await self._plan(self.record.kind, self.record.parameters, _silent), _silent)
        except (FusemldError, OSError) as error:
            _log.warning("service.start_failed", service=self.record.name, error=str(error))
            self._become(ServiceCondition.BACKOFF, str(error))
            self.attend()

    async def _take_up(self) -> None:
        """A process of an earlier daemon is alive: keep it if it answers, or if nobody can say how to ask."""
        try:
            planned = await self._plan(self.record.kind, self.record.parameters, _silent)
        except (FusemldError, OSError) as error:
            _log.warning("service.not_checked", service=self.record.name, error=str(error))
            self._become(ServiceCondition.READY, f"not checked: {error}", self._found_since())
            return
        if await self._still_answers(planned, _silent):
            _log.info("service.adopted", service=self.record.name, start=self.record.start)
        else:
            await self._start_again()

    async def _still_answers(self, planned: Start, note: Note) -> bool:
        self._grace_s = planned.plan.grace_s
        try:
            await starting.wait_until_ready(
                self._tools, planned, self.record.start, note, timeout_s=_CHECK_S, adopted=True
            )
        except StartError as error:
            _log.warning("service.unresponsive", service=self.record.name, error=str(error))
            return False
        self._become(ServiceCondition.READY, "", self._found_since())
        return True

    # Ending; the lock is held

    async def _settle(self) -> None:
        """Undo what a replacement left half done: nothing but the recorded start stays alive."""
        if self._halted:
            raise UnavailableError(f"cannot use service {self.record.name}: it is being stopped")
        for key in self._keys():
            if key != self._key() and key not in self._told_to_stop:
                await self._stop_key(key, self._grace_s)
        if self.record.replacement:
            await self._save(replace(self.record, replacement=0))
        await self._tidy()

    async def _tidy(self) -> None:
        """Let go of processes that have ended and of the logs of old starts."""
        for key in self._keys():
            if key != self._key() and self._tools.endings.ending(key) is not None:
                self._told_to_stop.discard(key)
                try:
                    await self._tools.endings.forget(key)
                except UnavailableError:
                    return
        oldest = self.record.counter - _LOGS_KEPT
        with contextlib.suppress(OSError):  # the next time
            for log in (self._tools.logs / self.record.name).glob("*.log"):
                if log.stem.isdigit() and int(log.stem) <= oldest and int(log.stem) != self.record.start:
                    log.unlink(missing_ok=True)

    async def _end_all(self, grace_s: float) -> None:
        """Stop every process of it and wait until they are gone. Raises `UnavailableError`."""
        alive = [key for key in self._keys() if self._tools.endings.is_alive(key)]
        for key in alive:
            await self._stop_key(key, grace_s)
        with anyio.move_on_after(grace_s + _END_S) as deadline:
            for key in alive:
                await self._tools.endings.wait(key)
        if deadline.cancelled_caught:
            raise UnavailableError(f"cannot stop service {self.record.name}: it is still there")

    async def _abandon(self, number: int) -> None:
        """Tell a process to stop that did not get to serve. If that is not possible now, `_settle` does it."""
        with anyio.move_on_after(_SAVE_S, shield=True):
            try:
                await self._stop_key(key_of(self.record.name, number), self._grace_s)
                if self.record.replacement:
                    await self._save(replace(self.record, replacement=0))
            except FusemldError as error:
                _log.warning("service.not_settled", service=self.record.name, error=str(error))

    async def _stop_key(self, key: str, grace_s: float) -> None:
        if self._tools.endings.is_alive(key):
            self._told_to_stop.add(key)
            await self._tools.processes.stop(key, grace_s)

    # Small things

    def _key(self) -> str:
        return key_of(self.record.name, self.record.start)

    def _keys(self) -> tuple[str, ...]:
        return self._tools.endings.keys(f"{starting.PREFIX}{self.record.name}/")

    def _is_alive(self) -> bool:
        return self._tools.endings.is_alive(self._key()) and self._key() not in self._told_to_stop

    def _is_well(self) -> bool:
        return self._halted or not self.record.wanted or self._is_alive()

    def _was_ready_for(self, seconds: float) -> bool:
        return self._condition is ServiceCondition.READY and time.time() - self._since >= seconds

    def _retry_later(self, delay_s: float) -> None:
        message = self._message
        if self._condition is not ServiceCondition.BACKOFF:
            ended = self._tools.endings.ending(self._key())
            message = f"it {in_words(ended)}" if ended is not None else "it is not running"
            _log.warning("service.died", service=self.record.name, cause=message)
        self._again_at = time.monotonic() + delay_s
        self._become(ServiceCondition.BACKOFF, message)

    def _words(self) -> str:
        left_s = self._again_at - time.monotonic()
        if self._condition is not ServiceCondition.BACKOFF or left_s <= 0:
            return self._message
        return f"{self._message}; starts again in {math.ceil(left_s)} s"

    def _found_since(self) -> float | None:
        """When the process started, if all that this daemon has done with it was to find it serving."""
        is_untouched = self._condition is ServiceCondition.STOPPED
        return self._tools.endings.started_at(self._key()) if is_untouched else None

    def _become(self, condition: ServiceCondition, message: str, since: float | None = None) -> None:
        """`since` is the time, where it is not now."""
        if condition is not self._condition:
            self._since = time.time() if since is None else since
        self._condition, self._message = condition, message

    async def _save(self, record: ServiceRecord) -> None:
        await self._persistence.save(record)
        self.record = record


def _silent(_: str) -> None:
    """For starts that nobody waits for."""
