"""What the keeper said about the processes below a prefix, and waiting for one of them to end."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from fusemld.hooks.processes import ProcessEnded, Processes, ProcessStarted


class Endings:
    """Holds the latest event of every key; `heard` is called with each key that something happened to."""

    def __init__(self, processes: Processes, prefix: str, heard: Callable[[str], None] | None = None) -> None:
        self._processes = processes
        self._prefix = prefix
        self._heard = heard
        self._latest: dict[str, ProcessStarted | ProcessEnded] = {}
        self._waiting: dict[str, anyio.Event] = {}
        self._expected: set[str] = set()
        processes.observe(prefix, self._hear)

    def _hear(self, event: ProcessStarted | ProcessEnded) -> None:
        if isinstance(self._latest.get(event.key), ProcessEnded):
            return
        self._latest[event.key] = event
        self._expected.discard(event.key)
        if isinstance(event, ProcessEnded) and (waiting := self._waiting.pop(event.key, None)) is not None:
            waiting.set()
        if self._heard is not None:
            self._heard(event.key)

    async def refresh(self, prefix: str | None = None) -> None:
        """Take in what the keeper knows below the prefix. Raises `UnavailableError`."""
        for event in await self._processes.known(prefix or self._prefix):
            self._hear(event)

    def expect(self, key: str) -> None:
        """The key was spawned: it counts as alive until the keeper says otherwise."""
        if key not in self._latest:
            self._expected.add(key)

    def keys(self, prefix: str) -> tuple[str, ...]:
        return tuple(key for key in (*self._latest, *self._expected) if key.startswith(prefix))

    def is_alive(self, key: str) -> bool:
        return key in self._expected or isinstance(self._latest.get(key), ProcessStarted)

    def pid(self, key: str) -> int | None:
        event = self._latest.get(key)
        return event.pid if isinstance(event, ProcessStarted) else None

    def started_at(self, key: str) -> float | None:
        """Of a process that is alive, in seconds since the epoch."""
        event = self._latest.get(key)
        return event.at if isinstance(event, ProcessStarted) else None

    def ending(self, key: str) -> ProcessEnded | None:
        event = self._latest.get(key)
        return event if isinstance(event, ProcessEnded) else None

    async def wait(self, key: str) -> ProcessEnded:
        """Returns when the process has ended; only for keys that were spawned."""
        while (event := self.ending(key)) is None:
            await self._waiting.setdefault(key, anyio.Event()).wait()
        return event

    async def forget(self, key: str) -> None:
        """The end of the process needs no longer be known. Raises `UnavailableError`."""
        await self._processes.forget(key)
        self._latest.pop(key, None)


def in_words(event: ProcessEnded) -> str:
    """How it ended, as the end of a sentence."""
    if event.never_started is not None:
        return f"could not be started: {event.never_started}"
    if event.lost is not None:
        return f"was lost: {event.lost}"
    if event.signal is not None:
        return f"was killed by signal {event.signal}"
    return f"ended with exit status {event.exit_status}"
