"""Loopback ports for services."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Collection

from fusemld.model.errors import StartError

LOOPBACK = "127.0.0.1"
PORTS = range(30_100, 32_768)
"""Below the ports that Linux gives to outgoing connections, so that a stopped service keeps its own."""


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now; connections of an earlier one that linger do not count."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def choose_port(taken: Collection[int], host: str = LOOPBACK) -> int:
    """A free port that is not among `taken`. Raises `StartError` where there is none."""
    first = random.randrange(len(PORTS))  # noqa: S311 - two daemons should not try in the same order
    for offset in range(len(PORTS)):
        port = PORTS[(first + offset) % len(PORTS)]
        if port not in taken and is_free(host, port):
            return port
    raise StartError(f"cannot find a free port on {host} between {PORTS[0]} and {PORTS[-1]}")
