"""Listening sockets that stay open while the processes that serve them come and go."""

from __future__ import annotations

import os
import socket

from fusemld.hooks.processes import Listener

_BACKLOG = 1024


class Listeners:
    def __init__(self) -> None:
        self._open: dict[str, tuple[Listener, socket.socket]] = {}

    def open(self, wanted: Listener) -> socket.socket:
        """The socket of that name, opened if need be; anew where the address is another. Raises OSError."""
        known = self._open.get(wanted.name)
        if known is not None and known[0] == wanted:
            return known[1]
        self.close(wanted.name)
        server = socket.socket(socket.AF_INET6 if ":" in wanted.host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((wanted.host, wanted.port))
            server.listen(_BACKLOG)
        except OSError as error:
            server.close()
            message = f"cannot listen on {wanted.host}:{wanted.port}: {os.strerror(error.errno or 0)}"
            raise OSError(error.errno, message) from error
        self._open[wanted.name] = (wanted, server)
        return server

    def close(self, name: str) -> None:
        """Processes that have the socket keep it."""
        if known := self._open.pop(name, None):
            known[1].close()
