"""Talking to systemd: readiness, and the sign of life that its watchdog asks for."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

SEND_S = 1.0
"""How long the daemon stands still for a systemd that does not take messages."""


def notify(state: str) -> None:
    """`sd_notify(3)`; nothing happens where no systemd can be reached: it acts on silence by itself."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    address = "\0" + address[1:] if address.startswith("@") else address
    # No descriptor may be left for the socket either.
    with (
        suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify_socket,
    ):
        notify_socket.settimeout(SEND_S)
        notify_socket.connect(address)
        notify_socket.sendall(state.encode())


def watchdog_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """How long systemd waits for a sign of life of this process, in seconds; None where it does not.
    See `sd_watchdog_enabled(3)`."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    whose = environment.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or (whose and whose != str(os.getpid())):
        return None
    return int(microseconds) / 1_000_000
