"""A way to the API server that can fall silent, which a real network does and no real server can be told to."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

BUFFER_BYTES = 65536


class SilentProxy:
    """Forwards TCP connections on loopback to `target` on loopback.

    `fall_silent` stops the forwarding of those that exist, as a firewall does that has forgotten them: they stay
    open, and whatever is sent goes nowhere. Connections made later are forwarded. While it is `holding`, new ones
    are taken and wait, as at the door of a load balancer.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._generation = 0
        self._sockets: list[socket.socket] = []
        self.silenced = 0
        """How many connections have been."""
        self._current = 0
        self._may_pass = threading.Event()
        self._may_pass.set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, name="silent proxy", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def fall_silent(self) -> None:
        self._generation += 1
        self.silenced += self._current
        self._current = 0

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        self._may_pass.clear()
        try:
            yield
        finally:
            self._may_pass.set()

    def _serve(self) -> None:
        while True:
            try:
                inner, _ = self._server.accept()
                self._may_pass.wait()
                outer = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._sockets += [inner, outer]
            self._current += 1
            for source, sink in ((inner, outer), (outer, inner)):
                threading.Thread(target=self._pump, args=(source, sink, self._generation), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, generation: int) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(BUFFER_BYTES):
                if generation == self._generation:
                    sink.sendall(data)
            if generation == self._generation:
                sink.shutdown(socket.SHUT_WR)
