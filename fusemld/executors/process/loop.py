"""The keeper's event loop: descriptors, timers and signals on one thread around epoll."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")


class Loop:
    """Nothing that a callback raises ends the loop: it is logged."""

    def __init__(self) -> None:
        self.is_terminated = False
        """SIGTERM has come."""
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def watch(self, descriptor: int, handler: Callable[[int], None]) -> None:
        """Call the handler with epoll's mask whenever there is something to read, or the other end is closed."""
        self._epoll.register(descriptor, select.EPOLLIN)
        self._handlers[descriptor] = handler

    def unwatch(self, descriptor: int) -> None:
        """Before the descriptor is closed. Repeating it does nothing."""
        if self._handlers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def watch_writing(self, descriptor: int, wanted: bool) -> None:
        self._epoll.modify(descriptor, select.EPOLLIN | select.EPOLLOUT if wanted else select.EPOLLIN)

    def after(self, delay_s: float, callback: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._numbers), callback))

    def watch_signals(self) -> None:
        """SIGCHLD wakes the loop, SIGTERM sets `is_terminated`, SIGHUP and SIGINT do nothing."""
        receiver, sender = socket.socketpair()
        for end in (receiver, sender):
            end.setblocking(False)
        signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        # Handlers, unlike SIG_IGN, are not inherited by what is started.
        for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: None)
        signal.signal(signal.SIGTERM, self._terminate)

        def woken(_mask: int) -> None:
            with contextlib.suppress(BlockingIOError):
                receiver.recv(4096)
            _ = sender  # lives as long as this handler

        self.watch(receiver.fileno(), woken)

    def turn(self, pause_s: float) -> None:
        """Wait, at most so long, for something to happen, and call who waits for it."""
        if self._timers:
            pause_s = min(pause_s, max(0.0, self._timers[0][0] - time.monotonic()))
        for descriptor, mask in self._epoll.poll(pause_s):
            if handler := self._handlers.get(descriptor):
                survive(handler, mask)
        while self._timers and self._timers[0][0] <= time.monotonic():
            survive(heapq.heappop(self._timers)[2])

    def _terminate(self, _number: int, _frame: object) -> None:
        self.is_terminated = True


def survive(callback: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    try:
        callback(*args, **kwargs)
    except Exception:  # noqa: BLE001 - the others' processes depend on this one
        log(traceback.format_exc())


def log(text: str) -> None:
    """Standard error is the keeper's log, a file. On a full disk the text is lost, and nothing else."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    with contextlib.suppress(OSError):
        print(f"{stamp} keeper[{os.getpid()}] {text}", file=sys.stderr, flush=True)  # noqa: T201 - its own log file
