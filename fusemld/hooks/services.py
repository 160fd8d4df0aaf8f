"""Embedded services and the servers of applications: what plugins say about them, what the daemon does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from fusemld.hooks.environments import EnvironmentSpec, Note


class HttpProbe(msgspec.Struct, frozen=True, kw_only=True):
    """Ready once `GET path` answers with a status below 400 or one of `accept`; `private`: on the private port."""

    path: str
    private: bool = False
    accept: tuple[int, ...] = ()


class ServiceAddress(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a running service. `credentials` were generated; they live in a file of mode 0600."""

    name: str
    host: str
    port: int
    folder: Path
    credentials: Mapping[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"ServiceAddress(name={self.name!r}, url={self.url!r})"


class ServiceContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a kind needs to say how one of its services is started.

    `folder` is private to the service and persists. `private_port` is a second free loopback port, new at
    every start. `peers` are the running services that `ServiceKind.requires` names. `environment` is the
    built environment, None where the kind needs none.
    """

    address: ServiceAddress
    private_port: int
    parameters: Mapping[str, str]
    peers: Mapping[str, ServiceAddress]
    environment: Path | None


class ServicePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One start of a service. `env` is added to a minimal environment (PATH, HOME, LANG, TMPDIR).

    `secret_env` likewise; its values are masked in the log. With `inherit_socket` the process gets the
    listening socket of the service's address as file descriptor 3 (as in systemd's `LISTEN_FDS=1`); that socket
    stays open when processes come and go, so a new process can take over without a refused connection.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = {}
    secret_env: Mapping[str, str] = {}
    probe: HttpProbe
    inherit_socket: bool = False
    start_timeout_s: float = 120.0
    grace_s: float = 10.0

    def __repr__(self) -> str:
        return f"ServicePlan(argv={self.argv!r})"


class ServiceKind(Protocol):
    """A kind of embedded service. `credentials` names the credentials to generate, `requires` other kinds
    whose single service of the same name must run first."""

    kind: str
    description: str
    requires: tuple[str, ...]
    credentials: tuple[str, ...]

    def environment(self, parameters: Mapping[str, str]) -> EnvironmentSpec | None:
        """The software of the service, from locked requirements that ship with the plugin."""

    def plan(self, context: ServiceContext) -> ServicePlan: ...


class ServiceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A service that should run: `name` is unique on this host, `parameters` are stored (no secrets).

    A request with other `parameters` than those of the running service starts a new process beside the old
    one and ends the old one once the new one is ready (`inherit_socket` kinds), else restarts it. If the new one
    does not get ready, it is ended, the old one stays as it was, and `StartError` is raised.
    """

    name: str
    kind: str
    parameters: Mapping[str, str] = {}


class Services(Protocol):
    async def ensure(self, request: ServiceRequest, note: Note) -> ServiceAddress:
        """Returns when the service is ready, starting what it requires first. Safe to repeat.

        Raises `StartError` with the last lines of its log if it does not get ready."""

    async def remove(self, name: str) -> None:
        """Stop the service and forget it, with its folder. Unknown names are ignored."""

    def find(self, name: str) -> ServiceAddress | None:
        """The address of a service that exists, running or not."""

    def folder(self, name: str) -> Path:
        """Where a service of that name keeps its data, whether it exists yet or not; `remove` deletes it."""
