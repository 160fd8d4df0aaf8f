"""The daemon's side of the keeper: finds it, starts it, asks it, hears from it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar, TypeVarTuple, Unpack, cast

import anyio
import msgspec
import structlog
from anyio.abc import TaskStatus
from anyio.to_thread import run_sync

from fusemld.executors.process.journal import is_another
from fusemld.executors.process.recorded import record_journal, recorded_journal
from fusemld.executors.process.recovery import JOURNAL_LOST
from fusemld.executors.process.sweeping import leave_nothing
from fusemld.executors.process.wire import (
    VERSION,
    Ask,
    CloseListener,
    Forget,
    FrameError,
    Hello,
    ProcessEvent,
    Reply,
    Shutdown,
    Spawn,
    Stop,
    ToKeeper,
    Told,
    bodies,
    connect,
    frame,
    keeper_folder,
    to_daemon,
)
from fusemld.hooks.processes import Observer, ProcessEnded, ProcessRequest, ProcessStarted
from fusemld.model import faults
from fusemld.model.errors import StartError, UnavailableError

_log: structlog.stdlib.BoundLogger = structlog.get_logger()
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_GONE_WITHIN_S = 5.0
_RESTART_PAUSES_S = (0.0, 0.1, 0.5, 2.0, 5.0)
_RECORD_AGAIN_S = 1.0
_ENCODING, _ENCODING_ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", faults.VARIABLE)


class Keeper:
    """`Processes`, as long as `run` is running.

    While there is no connection, requests wait up to `patience_s` for one and then raise `UnavailableError`.
    After every (re)connection everything that the keeper knows is delivered to the observers, and the end of what
    only an earlier keeper, of a journal that is lost, has known. Nothing is left of that then, also where it was
    lost before `run` began.
    """

    def __init__(self, state_folder: Path, *, idle_s: float = 60.0, patience_s: float = 15.0) -> None:
        self._state_folder = state_folder.absolute()
        self._idle_s = idle_s
        self._patience_s = patience_s
        self._observers: list[tuple[str, Observer]] = []
        self._link: _Link | None = None
        self._linked = anyio.Event()
        self._unsent_forgets: set[str] = set()
        self._unended: set[str] = set()
        """What was handed over, or told to be alive: an end of it is owed."""
        self.journal = ""
        self._is_shutting_down = False

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep a connection until cancelled. Cancelling leaves the keeper and its processes alone.

        Raises `StartError` if a keeper cannot be had at the beginning; later this is tried for ever.
        """
        is_first = True
        failures = 0
        while True:
            try:
                link = await self._open_link()
            except (OSError, UnavailableError, StartError) as error:
                if is_first:
                    raise StartError(f"cannot start the keeper of processes: {error}") from error
                _log.warning("keeper.unreachable", error=str(error))
                failures = min(failures + 1, len(_RESTART_PAUSES_S) - 1)
                await anyio.sleep(_RESTART_PAUSES_S[failures])
                continue
            failures = 0
            try:
                await self._serve(link)
                if is_first:
                    task_status.started()
                    is_first = False
                await link.closed.wait()
                if self._is_shutting_down:
                    await anyio.sleep_forever()
                _log.warning("keeper.lost", pid=link.keeper_pid)
            finally:
                self._link, self._linked = None, anyio.Event()
                link.close()

    async def spawn(self, request: ProcessRequest) -> None:
        env = {_encoded(k): _encoded(v) for k, v in {**request.env, **request.secret_env}.items()}
        link = await self._connected()
        message = Spawn(
            id=link.next_id(),
            key=request.key,
            argv=tuple(map(_encoded, request.argv)),
            cwd=_encoded(os.fspath(request.cwd)),
            log=_encoded(os.fspath(request.log)),
            env=env,
            secrets=tuple(map(_encoded, request.secrets)),
            log_limit_bytes=request.log_limit_bytes,
            log_limit_setting=request.log_limit_setting,
            results=os.fsencode(request.results) if request.results else b"",
            outputs=request.outputs if request.results else (),
            output_limit_bytes=request.output_limit_bytes,
            all_outputs_limit_bytes=request.all_outputs_limit_bytes,
            told_outputs_bytes=request.told_outputs_bytes,
            listener=request.listener,
            process_limit=request.process_limit,
        )
        self._unended.add(request.key)
        try:
            await link.ask(message)
        except UnavailableError:
            if not link.closed.is_set():  # refused: otherwise it may have been started
                self._unended.discard(request.key)
            raise
        except FrameError as error:
            self._unended.discard(request.key)
            raise StartError(
                f"cannot start {request.key}: what is to be handed over is too large: {error}"
            ) from error

    async def stop(self, key: str, grace_s: float) -> None:
        link = await self._connected()
        await link.ask(Stop(id=link.next_id(), key=key, grace_s=grace_s))

    async def forget(self, key: str) -> None:
        """Never fails: what the keeper did not hear it is told after the next connection."""
        self._unended.discard(key)
        self._unsent_forgets.add(key)
        if self._link is not None:
            self._send_forgets(self._link)

    async def known(self, prefix: str) -> Sequence[ProcessStarted | ProcessEnded]:
        link = await self._connected()
        return await link.ask(Ask(id=link.next_id(), prefix=prefix))

    def observe(self, prefix: str, observer: Observer) -> None:
        self._observers.append((prefix, observer))

    async def close_listener(self, name: str) -> None:
        link = await self._connected()
        await link.ask(CloseListener(id=link.next_id(), name=name))

    async def shutdown(self, grace_s: float) -> bool:
        """Stop every process and the keeper, `run` running or not. Also ends what a killed keeper left, with
        its journal or without. False: there never was one."""
        journal = recorded_journal(self._state_folder)
        if not journal and not keeper_folder(self._state_folder).exists():
            return False
        self._is_shutting_down = True
        link = await self._open_link()
        try:
            await link.ask(Shutdown(id=link.next_id(), grace_s=grace_s))
            with anyio.move_on_after(self._patience_s):
                await link.closed.wait()
        finally:
            link.close()
        if is_another(link.keeper_journal, journal):
            await _end_all_of(journal)
        return True

    async def _connected(self) -> _Link:
        if self._link is None:
            with anyio.move_on_after(self._patience_s):
                await self._linked.wait()
        if self._link is None:
            raise UnavailableError("cannot reach the keeper of processes: it is being started again")
        return self._link

    async def _serve(self, link: _Link) -> None:
        """Tell the observers what happened meanwhile, then let requests through."""
        self._send_forgets(link)
        with contextlib.suppress(UnavailableError):
            told = await link.ask(Ask(id=link.next_id(), prefix=""))
            for event in told:
                self._notify(event)
            before = self.journal or await _until_done(recorded_journal, self._state_folder)
            is_lost = is_another(link.keeper_journal, before)
            if is_lost:
                await _end_all_of(before)
            if link.keeper_journal not in ("", before):
                await _until_done(record_journal, self._state_folder, link.keeper_journal)
            self.journal = link.keeper_journal or before
            if is_lost:
                self._give_up(before, self._unended - {event.key for event in told})
            self._link = link
            self._send_forgets(link)
            self._linked.set()
            _log.info("keeper.adopted", pid=link.keeper_pid)

    def _send_forgets(self, link: _Link) -> None:
        if self._unsent_forgets and link.send(Forget(keys=tuple(self._unsent_forgets))):
            self._unsent_forgets.clear()

    def _give_up(self, journal: str, keys: Collection[str]) -> None:
        """They were in a journal that is lost, and nothing is left of them: who hears of their end may start
        something in their place."""
        _log.error("keeper.journal_lost", journal=journal, keys=sorted(keys))
        for key in keys:
            self._notify(ProcessEnded(key=key, at=time.time(), lost=JOURNAL_LOST))

    def _notify(self, event: ProcessEvent) -> None:
        if isinstance(event, ProcessStarted):
            self._unended.add(event.key)
        else:
            self._unended.discard(event.key)
        for prefix, observer in self._observers:
            if event.key.startswith(prefix):
                observer(event)

    async def _open_link(self) -> _Link:
        """Connect, starting a keeper where there is none. One that is going away just now is waited for: until
        it is gone, it has the lock. Raises OSError, `StartError` or `UnavailableError`."""
        folder = keeper_folder(self._state_folder)
        deadline = anyio.current_time() + self._patience_s
        while True:
            try:
                connection = connect(folder)
            except OSError:
                if anyio.current_time() > deadline:
                    raise
                await self._start_keeper()
                await anyio.sleep(0.005)
                continue
            connection.setblocking(False)
            loop = asyncio.get_running_loop()
            _transport, link = await loop.create_unix_connection(lambda: _Link(self._notify), sock=connection)
            with anyio.move_on_after(self._patience_s):
                await link.greeted.wait()
            if link.keeper_version == VERSION and not link.closed.is_set():
                return link
            link.close()
            if link.keeper_version not in (0, VERSION):
                raise UnavailableError(
                    f"the keeper of {self._state_folder} speaks version {link.keeper_version}, not {VERSION}: "
                    "end it with `fusemld stop --all` of the release that started it"
                )
            if anyio.current_time() > deadline:
                raise UnavailableError(f"the keeper of {self._state_folder} does not answer")
            await anyio.sleep(0.02)

    async def _start_keeper(self) -> None:
        """Raises `StartError` with the words of one that cannot start. One that was killed may be tried again."""
        folder = keeper_folder(self._state_folder)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # -P: no module is taken from the folder that the daemon was started in.
        command = (sys.executable, "-P", "-m", "fusemld.executors.process.keeper")
        with (folder / "keeper.log").open("ab") as log:
            result = await anyio.run_process(
                [*command, str(self._state_folder), str(self._idle_s)],
                stdin=asyncio.subprocess.DEVNULL,
                stderr=log,
                env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
                check=False,
                # Where root acts as another user now, the keeper is that one for good.
                user=None if os.getuid() == os.geteuid() else os.geteuid(),
                group=None if os.getgid() == os.getegid() else os.getegid(),
            )
        if result.returncode < 0:
            _log.warning("keeper.killed", signal=-result.returncode)
        elif result.returncode:
            said = result.stdout.decode(errors="replace") or f"it ended with exit status {result.returncode}"
            raise StartError(f"{said} (see {folder / 'keeper.log'})")


async def _end_all_of(journal: str) -> None:
    """What it had carries its name."""
    while not await run_sync(leave_nothing, journal, _GONE_WITHIN_S, abandon_on_cancel=True):
        _log.warning("keeper.cannot_look", journal=journal)


async def _until_done(work: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
    """What this host lacks for it is waited for."""
    while True:
        try:
            return await run_sync(work, *args)
        except OSError as error:
            _log.warning("keeper.cannot_record", error=str(error))
            await anyio.sleep(_RECORD_AGAIN_S)


def _encoded(text: str) -> bytes:
    """`os.fsencode` at a fifth of its cost, twenty times a start."""
    return text.encode(_ENCODING, _ENCODING_ERRORS)


class _Link(asyncio.Protocol):
    """One connection. Requests are pipelined."""

    def __init__(self, notify: Observer) -> None:
        self.closed = anyio.Event()
        self.greeted = anyio.Event()
        self.keeper_version = 0
        self.keeper_pid = 0
        self.keeper_journal = ""
        self._notify = notify
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._numbers = itertools.count(1)
        self._received = bytearray()
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._told: dict[int, list[ProcessEvent]] = {}

    def next_id(self) -> int:
        return next(self._numbers)

    async def ask(self, request: Spawn | Stop | Ask | CloseListener | Shutdown) -> Sequence[ProcessEvent]:
        """Raises `UnavailableError` if the answer is an error, or does not come, and `FrameError` where the
        request is too large to be sent."""
        if self.closed.is_set():
            raise UnavailableError("cannot reach the keeper of processes: it went away")
        answer = self._answers[request.id] = self._loop.create_future()
        try:
            self.send(request)
            await answer
            return self._told.get(request.id, ())
        finally:
            self._answers.pop(request.id, None)
            self._told.pop(request.id, None)

    def send(self, message: ToKeeper) -> bool:
        """False: it is closed, or about to be. Raises `FrameError` where the message is too large."""
        data = frame(message)
        if self._transport.is_closing():
            return False
        self._transport.write(data)
        return True

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.send(Hello(version=VERSION, pid=os.getpid()))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        self.greeted.set()
        reason = exc or "it went away"
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(UnavailableError(f"cannot reach the keeper of processes: {reason}"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            for body in bodies(self._received):
                self._take(to_daemon.decode(body))
        except (FrameError, msgspec.MsgspecError) as error:
            _log.warning("keeper.not_understood", error=str(error))
            self.close()

    def _take(self, message: Hello | Reply | Told) -> None:
        match message:
            case Hello():
                self.keeper_version, self.keeper_pid = message.version, message.pid
                self.keeper_journal = message.journal
                self.greeted.set()
            case Told(id=0):
                self._notify(message.event)
            case Told():
                self._told.setdefault(message.id, []).append(message.event)
            case Reply():
                answer = self._answers.get(message.id)
                if answer is None or answer.done():
                    return
                if message.error:
                    answer.set_exception(UnavailableError(message.error))
                else:
                    answer.set_result(None)
