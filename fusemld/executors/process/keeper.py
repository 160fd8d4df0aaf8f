"""The keeper: the process that starts processes, holds their pipes and sockets, and outlives the daemon.

`python -m fusemld.executors.process.keeper STATE_FOLDER` detaches itself, and the command returns once the
keeper listens (or another one has the lock). One thread around epoll: a turn takes what has arrived, writes the
claims, starts the processes, writes what happened, and only then tells the daemon.

It imports the standard library and msgspec only: it starts in 0.1 s and stays small.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import signal
import socket
import sys
import time
import traceback
from collections import deque
from pathlib import Path

from fusemld.executors.masking import needles
from fusemld.executors.process import detaching, groups, own_log, recovery
from fusemld.executors.process.bounds import Bounds
from fusemld.executors.process.children import Child
from fusemld.executors.process.clients import Clients
from fusemld.executors.process.collecting import Collector
from fusemld.executors.process.connections import ClosedError, Connection
from fusemld.executors.process.journal import Claimed, Ended, Forgotten, Journal, Opened, Spawned
from fusemld.executors.process.listeners import Listeners
from fusemld.executors.process.loop import Loop, log, survive
from fusemld.executors.process.news import News
from fusemld.executors.process.pump import Pump
from fusemld.executors.process.spawning import (
    ExecError,
    boot_id,
    signal_group,
    start,
    start_ticks,
)
from fusemld.executors.process.sweeping import Sweeper, leave_nothing
from fusemld.executors.process.wire import (
    Ask,
    CloseListener,
    Forget,
    ProcessEvent,
    Reply,
    Request,
    Shutdown,
    Spawn,
    Stop,
    Told,
    deliverable,
    keeper_folder,
)
from fusemld.hooks.processes import ProcessEnded, ProcessStarted
from fusemld.model import faults

UNWATCHED = "the keeper of the processes could not watch over it, and killed it"
_SPAWNS_PER_TURN = 8
_DRAIN_S = 0.2
"""How long after the end of a leader its pipe may stay open before somebody who escaped is looked for."""
_DRAIN_READS = 4
"""More than a pipe holds, but not for ever: somebody may still be writing."""
_AGAIN_S = 0.5
"""Between two tries of what descriptors are wanting for."""
_NEXT_TURN_S = 0.001
"""Between two long outputs: what happens meanwhile comes first."""
_TERMINATED_GRACE_S = 5.0
_GONE_WITHIN_S = 5.0
_REMOVE_AGAIN_S = 1.0
_LOOK_EVERY_S = 1.0


class Keeper:
    """All state is in memory; the journal brings back what matters. Never raises into its loop for what one
    key, connection or file does."""

    def __init__(self, folder: Path, idle_s: float) -> None:
        self._folder = folder
        self._idle_s = idle_s
        self._journal = Journal(folder / "journal")
        self._loop = Loop()
        self._clients = Clients(self._loop, self._handle)
        self._children: dict[int, Child] = {}
        self._by_key: dict[str, Child] = {}
        self._latest: dict[str, ProcessEvent] = {}
        self._forgotten_early: set[str] = set()
        self._waiting: deque[tuple[Connection, Spawn]] = deque()
        self._news = News()
        self._listeners = Listeners()
        self._marker = ""
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._home = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._idle_since = time.monotonic()
        self._shutdowns: list[tuple[Connection, int]] = []
        self._stopping = False
        self._oom = detaching.lower_oom_score()
        self._bounds: Bounds
        self._sweeper: Sweeper
        self._looks_at_limits = False

    def open(self) -> None:
        """Settle what an earlier keeper left, then listen."""
        own_log.keep_short(self._folder / "keeper.log", self._loop)
        self._journal.open()
        opened = self._journal.opened
        self._marker = opened.marker if opened else secrets.token_hex(8)
        boot = boot_id()
        self._bounds = Bounds(self._marker)
        self._sweeper = Sweeper(self._loop, self._marker)
        ends = recovery.settle(self._journal, boot, self._marker)
        self._bounds.clean()
        self._journal.add(Opened(boot=boot, marker=self._marker), *(Ended(event=end) for end in ends))
        self._journal.commit()
        for key, entry in self._journal.entries.items():
            if entry.ended is not None:
                self._latest[key] = deliverable(entry.ended.event)
        for end in ends:
            log(f"lost {end.key}: {end.lost}")
        self._loop.watch_signals()
        self._clients.let_in(self._folder, self._marker)

    def serve(self) -> None:
        """Until told to shut down, or idle for long enough with nobody connected."""
        while not self._is_over():
            self._turn()
        leave_nothing(self._marker, _GONE_WITHIN_S)
        self._bounds.clean()
        for connection, request in self._shutdowns:
            connection.send(Reply(id=request))
            connection.peer.setblocking(True)
            with contextlib.suppress(ClosedError):
                connection.flush()

    def _is_over(self) -> bool:
        if self._by_key or self._waiting:
            self._idle_since = time.monotonic()
            return False
        if self._stopping:
            return True
        if self._clients:
            self._idle_since = time.monotonic()
        return time.monotonic() - self._idle_since > self._idle_s

    def _turn(self) -> None:
        self._loop.turn(0 if self._waiting else max(0.05, self._idle_s / 4))
        if self._loop.is_terminated:
            self._stop_everything(_TERMINATED_GRACE_S)
        survive(self._reap)
        survive(self._spawn_some)
        if wait_s := self._news.wait_s(time.monotonic()):
            self._loop.after(wait_s, lambda: None)
        else:
            survive(self._tell)
        self._bounds.go_home()

    def _tell(self) -> None:
        """What is not safe yet is not told; processes go on, and the next turn tries again."""
        try:
            self._journal.commit()
        except OSError as error:
            log(f"cannot write the journal: {error}")
            self._loop.after(1.0, lambda: None)
            return
        if news := self._news.take():
            faults.point("keeper.recorded")
        self._clients.tell(news)

    # What is asked

    def _handle(self, connection: Connection, message: Request) -> None:
        match message:
            case Spawn():
                self._waiting.append((connection, message))
            case Stop():
                self._spawn_all()
                self._stop(message.key, message.grace_s)
                connection.send(Reply(id=message.id))
            case Forget():
                self._forget(message.keys)
            case Ask():
                self._spawn_all()
                for key, event in self._latest.items():
                    if key.startswith(message.prefix):
                        connection.send(Told(id=message.id, event=event))
                connection.send(Reply(id=message.id))
            case CloseListener():
                self._listeners.close(message.name)
                connection.send(Reply(id=message.id))
            case Shutdown():
                self._shutdowns.append((connection, message.id))
                self._stop_everything(message.grace_s)

    # Starting

    def _spawn_all(self) -> None:
        """What was asked for, by a daemon that is gone perhaps, comes before what is asked about it now."""
        while self._waiting:
            self._spawn_some()

    def _spawn_some(self) -> None:
        """Claim a few keys with one write, then start them."""
        taken = [self._waiting.popleft() for _ in range(min(_SPAWNS_PER_TURN, len(self._waiting)))]
        prepared: list[tuple[Connection, Spawn, socket.socket | None, tuple[int, int]]] = []
        claimed: set[str] = set()
        for connection, request in taken:
            if request.key in self._latest or request.key in self._by_key or request.key in claimed:
                connection.send(Reply(id=request.id))
                if event := self._latest.get(request.key):
                    connection.send(Told(id=0, event=event))
                continue
            try:
                if self._stopping:
                    raise OSError(errno.ESHUTDOWN, "everything is being stopped")
                listener = self._listeners.open(request.listener) if request.listener else None
                pipe = os.pipe2(os.O_CLOEXEC)
            except Exception as error:  # noqa: BLE001 - of an address, anything may be wrong
                why = error.strerror if isinstance(error, OSError) else None
                connection.send(Reply(id=request.id, error=why or str(error)))
                continue
            claimed.add(request.key)
            prepared.append((connection, request, listener, pipe))
        if not prepared:
            return
        try:
            self._journal.claim(
                Claimed(key=request.key, at=time.time(), log=os.fsdecode(request.log))
                for _connection, request, _listener, _pipe in prepared
            )
        except OSError as error:
            for connection, request, _listener, pipe in prepared:
                os.close(pipe[0])
                os.close(pipe[1])
                connection.send(Reply(id=request.id, error=f"cannot write the journal: {error.strerror}"))
            return
        faults.point("keeper.claimed")
        for connection, request, listener, pipe in prepared:
            try:
                reply = self._spawn(request, listener, pipe)
            except Exception as error:  # noqa: BLE001 - logged, and the end of this one alone
                reply = self._give_up(request, pipe[0], error)
            connection.send(reply)

    def _spawn(self, request: Spawn, listener: socket.socket | None, pipe: tuple[int, int]) -> Reply:
        """Whatever it raises, a process that was started is a child then; if none was, the reader is open."""
        reader, writer = pipe
        try:
            patterns = needles(request.secrets)
            pump = Pump(reader, request.log, request.log_limit_bytes, patterns, setting=request.log_limit_setting)
            os.set_blocking(reader, False)
            descriptor = listener.fileno() if listener else None
            with self._bounds.held(request.process_limit) as bound:
                pid = start(request, self._marker, writer, self._null, self._home, descriptor)
                child = self._children[pid] = self._by_key[request.key] = Child(
                    key=request.key,
                    pid=pid,
                    pump=pump,
                    patterns=patterns,
                    results=request.results,
                    outputs=request.outputs,
                    output_limit_bytes=request.output_limit_bytes,
                    all_outputs_limit_bytes=request.all_outputs_limit_bytes,
                    told_outputs_bytes=request.told_outputs_bytes,
                    bound=bound,
                )
        except ExecError as error:
            self._record_end(
                ProcessEnded(key=request.key, at=time.time(), exit_status=127, never_started=str(error))
            )
            os.close(reader)
            return Reply(id=request.id)
        except OSError as error:
            if request.key in self._by_key:
                raise
            self._journal.add(Forgotten(key=request.key))
            os.close(reader)
            return Reply(id=request.id, error=f"cannot start a process: {error.strerror}")
        finally:
            os.close(writer)
        faults.point("keeper.spawned")
        if self._oom is not None:
            detaching.set_oom_score(pid, self._oom)
        self._loop.watch(reader, lambda _mask: self._pump(child))
        if bound is not None and not self._looks_at_limits:
            self._looks_at_limits = True
            self._loop.after(_LOOK_EVERY_S, self._look_at_limits)
        started = ProcessStarted(key=request.key, at=time.time(), pid=pid)
        ticks = 0
        with contextlib.suppress(OSError):
            ticks = start_ticks(pid)
        self._journal.add(Spawned(key=request.key, at=started.at, pid=pid, ticks=ticks))
        self._latest[request.key] = started
        self._news.add(started, time.monotonic())
        return Reply(id=request.id)

    def _give_up(self, request: Spawn, reader: int, error: Exception) -> Reply:
        """Something is wrong that nobody thought of: it is ended, and its key has an end, so that it is never
        started again."""
        log("".join(traceback.format_exception(error)))
        if (child := self._by_key.get(request.key)) is not None:
            child.lost = f"{UNWATCHED}: {error}"
            self._kill_group(child)
        else:
            os.close(reader)
            why = f"the keeper of the processes cannot start it: {error}"
            self._record_end(ProcessEnded(key=request.key, at=time.time(), exit_status=127, never_started=why))
        return Reply(id=request.id)

    def _look_at_limits(self) -> None:
        """Who has reached a limit is told so while it runs; who has run for a while gets its share."""
        bounded = [child for child in self._by_key.values() if child.bound is not None]
        for child in bounded:
            self._look_at_limit(child)
            if child.bound is not None:
                self._bounds.share(child.bound)
        self._looks_at_limits = bool(bounded)
        if bounded:
            self._loop.after(_LOOK_EVERY_S, self._look_at_limits)

    def _look_at_limit(self, child: Child) -> None:
        """Also before it is killed: afterwards nobody could tell. One note is enough."""
        if child.bound is not None and child.bound.is_reached_now():
            child.pump.note(f"it has reached {child.bound.reached}: no more can be started")

    # Stopping

    def _stop(self, key: str, grace_s: float) -> None:
        child = self._by_key.get(key)
        if child is None or child.collector is not None:  # it has ended
            return
        deadline = time.monotonic() + max(0.0, grace_s)
        if child.kill_at is not None and child.kill_at <= deadline:
            return
        child.killed, child.kill_at = True, deadline
        self._look_at_limit(child)
        if grace_s > 0:
            signal_group(child.pid, signal.SIGTERM)
            signal_group(child.pid, signal.SIGCONT)
            self._loop.after(grace_s, lambda: self._kill_if_due(child))
        else:
            self._kill_if_due(child)

    def _kill_if_due(self, child: Child) -> None:
        if (
            child.key in self._by_key
            and child.collector is None
            and child.kill_at is not None
            and child.kill_at <= time.monotonic()
        ):
            self._kill_group(child)
            if child.status is not None:
                self._settle(child)

    def _kill_group(self, child: Child) -> None:
        """All that it has started and that can be found by its groups."""
        signal_group(child.pid, signal.SIGKILL)
        if child.group is not None:
            child.group.kill()

    def _stop_everything(self, grace_s: float) -> None:
        self._stopping = True
        for key in tuple(self._by_key):
            self._stop(key, grace_s)

    # Ending

    def _reap(self) -> None:
        """Take note of every child that has ended, strangers included (their parents ended before them)."""
        ended: list[Child] = []
        strangers = False
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if found is None:
                break
            child = self._children.get(found.si_pid)
            lingers = child is not None and child.killed and (child.kill_at or 0.0) > time.monotonic()
            if child is not None and not lingers:
                # Before the leader is reaped, its pid cannot be anybody else's.
                self._look_at_limit(child)
                self._kill_group(child)
            _pid, status = os.waitpid(found.si_pid, 0)
            if child is None:
                strangers = True
                continue
            faults.point("keeper.reaped")
            del self._children[child.pid]
            child.status = status
            ended.append(child)
        if strangers:
            # One of them may have been the last of a group.
            ended = [child for child in self._by_key.values() if child.status is not None]
        for child in ended:
            survive(self._settle, child)

    def _pump(self, child: Child) -> None:
        child.pump.read()
        if child.pump.at_end:
            self._loop.unwatch(child.pump.descriptor)

    def _settle(self, child: Child) -> None:
        """The leader has ended: wait a bounded time for the rest of its group and for the end of its output."""
        if child.collector is not None:
            return
        now = time.monotonic()
        for _ in range(_DRAIN_READS):
            if not child.pump.read():
                break
        if child.pump.at_end:
            self._loop.unwatch(child.pump.descriptor)
        lingers = child.kill_at is not None and now < child.kill_at
        alive = signal_group(child.pid, 0)
        if child.group is not None:
            alive = (child.group.is_populated if lingers else child.group.kill()) or alive
        if child.pump.at_end and not alive:
            self._finish(child)
            return
        if alive and lingers:
            self._loop.after(0.05, lambda: self._settle_again(child))
            return
        if child.drain_until is None:
            child.drain_until = now + _DRAIN_S
        if now < child.drain_until:
            self._loop.after(0.02, lambda: self._settle_again(child))
        elif not child.swept:
            child.swept = self._sweeper.sweep({child.key})
            within_s = _GONE_WITHIN_S if alive else _DRAIN_S
            child.drain_until = now + (within_s if child.swept else _AGAIN_S)
            self._loop.after(0.02 if child.swept else _AGAIN_S, lambda: self._settle_again(child))
        else:
            self._finish(child)

    def _settle_again(self, child: Child) -> None:
        if child.key in self._by_key:
            self._settle(child)

    def _finish(self, child: Child) -> None:
        """Nothing of it is left, or nothing that can be found: what it has handed over is looked at."""
        child.collector = Collector(
            child.results,
            child.outputs,
            child.output_limit_bytes,
            child.all_outputs_limit_bytes,
            child.told_outputs_bytes,
            child.patterns,
        )
        self._collect(child, child.collector)

    def _collect(self, child: Child, collector: Collector) -> None:
        try:
            while collector.go_on():
                if collector.are_left:  # they are long: others get their turn
                    self._loop.after(_NEXT_TURN_S, lambda: self._collect(child, collector))
                    return
        except OSError as error:
            log(f"cannot read the outputs of {child.key} now: {error}")
            self._loop.after(_AGAIN_S, lambda: self._collect(child, collector))
            return
        del self._by_key[child.key]
        self._loop.unwatch(child.pump.descriptor)
        if child.group is not None:
            self._remove_later(child.group, 0.0)
        child.pump.close()
        self._record_end(child.ended(time.time(), collector.found))
        if child.group is not None:
            return  # nothing gets out of it, so there is nothing to sweep
        self._sweeper.sweep_later(child.key)

    def _remove_later(self, group: groups.Group, after_s: float) -> None:
        """Not before its end was told, and again where something in it has not ended yet."""

        def remove() -> None:
            if not self._bounds.release(group):
                group.kill()
                self._remove_later(group, _REMOVE_AGAIN_S)

        self._loop.after(after_s, remove)

    def _record_end(self, event: ProcessEnded) -> None:
        event = deliverable(event)
        self._journal.add(Ended(event=event))
        self._latest[event.key] = event
        self._news.add(event, time.monotonic())
        if event.key in self._forgotten_early:
            self._forget((event.key,))

    def _forget(self, keys: tuple[str, ...]) -> None:
        for key in keys:
            if key in self._by_key:
                self._forgotten_early.add(key)
            elif self._latest.pop(key, None) is not None:
                self._forgotten_early.discard(key)
                self._journal.add(Forgotten(key=key))


def main() -> None:
    state_folder = Path(sys.argv[1])
    idle_s = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
    folder = keeper_folder(state_folder)
    with detaching.detached(folder) as ready:
        if ready is None:
            return
        keeper = Keeper(folder, idle_s)
        keeper.open()
        ready()
        log("ready")
        keeper.serve()
        log("done")
        # Who sees its connection closed finds nothing of it any more: the interpreter's own end takes a while.
        os._exit(0)


if __name__ == "__main__":
    main()
