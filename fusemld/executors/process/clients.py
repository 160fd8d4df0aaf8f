"""Those who are connected to the keeper: let in, heard, told, and dropped."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

from fusemld.executors.process.connections import ClosedError, Connection, is_allowed, listen
from fusemld.executors.process.loop import Loop, log
from fusemld.executors.process.wire import VERSION, Hello, ProcessEvent, Request, Told

_ACCEPT_AGAIN_S = 0.5


class Clients:
    """`handle` is called with every message but the greetings."""

    def __init__(self, loop: Loop, handle: Callable[[Connection, Request], None]) -> None:
        self._loop = loop
        self._handle = handle
        self._connections: dict[int, Connection] = {}
        self._journal = ""

    def __bool__(self) -> bool:
        """Whether anybody is connected."""
        return bool(self._connections)

    def let_in(self, folder: Path, journal: str) -> None:
        """From now on, telling everybody the name of the journal."""
        self._journal = journal
        self._watch(listen(folder))

    def tell(self, news: Iterable[ProcessEvent]) -> None:
        """The news to everybody, and to each what was answered."""
        for connection in tuple(self._connections.values()):
            if connection.greeted:
                for event in news:
                    connection.send(Told(id=0, event=event))
            if connection.has_outgoing:
                self._flush(connection)

    def _watch(self, server: socket.socket) -> None:
        self._loop.watch(server.fileno(), lambda _mask: self._accept(server))

    def _accept(self, server: socket.socket) -> None:
        try:
            peer, _address = server.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # The connection stays where it is, and would wake the loop again at once.
            log(f"cannot accept a connection: {error}")
            self._loop.unwatch(server.fileno())
            self._loop.after(_ACCEPT_AGAIN_S, lambda: self._watch(server))
            return
        if not is_allowed(peer):
            peer.close()
            return
        connection = Connection(peer)
        self._connections[peer.fileno()] = connection
        self._loop.watch(peer.fileno(), lambda mask: self._serve(connection, mask))
        connection.send(Hello(version=VERSION, pid=os.getpid(), journal=self._journal))
        self._flush(connection)

    def _serve(self, connection: Connection, mask: int) -> None:
        try:
            if mask & ~select.EPOLLOUT:
                for message in connection.receive():
                    if isinstance(message, Hello):
                        connection.greeted = message.version == VERSION
                    else:
                        self._handle(connection, message)
        except ClosedError as closed:
            self._drop(connection, str(closed))
        else:
            if mask & select.EPOLLOUT:
                self._flush(connection)

    def _flush(self, connection: Connection) -> None:
        descriptor = connection.peer.fileno()
        if descriptor < 0:
            return
        try:
            done = connection.flush()
        except ClosedError as closed:
            self._drop(connection, str(closed))
        else:
            if done is connection.is_blocked:
                connection.is_blocked = not done
                self._loop.watch_writing(descriptor, not done)

    def _drop(self, connection: Connection, reason: str) -> None:
        descriptor = connection.peer.fileno()
        if descriptor < 0:
            return
        if reason:
            log(f"connection dropped: {reason}")
        self._loop.unwatch(descriptor)
        del self._connections[descriptor]
        connection.peer.close()
