"""Embedded services: what is stored of them, and what is shown."""

from __future__ import annotations

import enum

import msgspec


class ServiceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What outlives the daemon of one embedded service. No secrets.

    `kind` and `parameters` describe the process `start`, which is (or was) the one that serves; `replacement`
    is the number of a process that is to take over from it, 0 where there is none. `counter` is the last
    number given to a process of this service: numbers are never used twice. `starts` counts its processes.
    `wanted` is true once the service was ready, and makes the daemon start it again whenever it is found dead.
    """

    name: str
    kind: str
    parameters: dict[str, str] = {}
    host: str
    port: int
    start: int = 0
    replacement: int = 0
    counter: int = 0
    starts: int = 0
    wanted: bool = False


class ServiceCondition(enum.StrEnum):
    """`failed`: it did not get ready and waits for the next one who needs it; `backoff`: it died and is
    started again later; `stopped`: nobody has asked for it, or everything was told to stop."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    BACKOFF = "backoff"
    STOPPED = "stopped"


class ServiceState(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `fuseml services`. `since` is when `state` began (of what an earlier daemon left serving, when
    its process started), `message` says why or what next."""

    name: str
    kind: str
    state: ServiceCondition
    url: str
    since: float
    pid: int | None = None
    message: str = ""
    log: str = ""
    starts: int = 0
