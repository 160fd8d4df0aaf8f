"""Processes of this host that outlive the daemon: what the keeper offers to executors and services."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """A listening TCP socket that the keeper opens once per `name`, keeps, and hands to processes as file
    descriptor 3 with `LISTEN_FDS=1`."""

    name: str
    host: str
    port: int


class ProcessRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One process group. `key` is unique for ever in a state folder: `step/RUN/STEP/ATTEMPT`,
    `service/NAME/START`, `environment/KEY/START`.

    `env` and `secret_env` together are the whole environment (`secret_env` wins). `secrets` are masked in the log
    (`***`) and refused in outputs. Standard output and error go to `log`, at most `log_limit_bytes` of it, with a
    note where something was cut, which names `log_limit_setting` where there is one. `outputs` are files of
    `results` to read when the leader has ended, each of at most `output_limit_bytes`, and all together of at most
    `all_outputs_limit_bytes`. Those that have more than `told_outputs_bytes` together (0: however many) are not
    handed over: they are left where they are.
    When the leader has ended, whatever is left of its group is killed. At most `process_limit` processes and
    threads of it may be there at the same time (0: no limit), where something on this host can hold them.
    """

    key: str
    argv: tuple[str, ...]
    cwd: str | Path
    log: str | Path
    env: Mapping[str, str] = {}
    secret_env: Mapping[str, str] = {}
    secrets: tuple[str, ...] = ()
    log_limit_bytes: int = 64 * 1024 * 1024
    log_limit_setting: str = ""
    results: Path | None = None
    outputs: tuple[str, ...] = ()
    output_limit_bytes: int = 1024 * 1024
    all_outputs_limit_bytes: int = 64 * 1024 * 1024
    told_outputs_bytes: int = 0
    listener: Listener | None = None
    process_limit: int = 0

    def __repr__(self) -> str:
        return f"ProcessRequest(key={self.key!r})"


class ProcessStarted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    key: str
    at: float
    pid: int


class LeftOutput(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a file as it was when its process had ended; `digest` is its SHA-256, in hexadecimal."""

    size_bytes: int
    digest: str


class ProcessEnded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Exactly one of `exit_status`, `signal` and `lost` is set; `lost` says why nothing better is known
    (the keeper or the host went down, or the claim was recorded and no process can be shown to have started).

    `never_started` (with `lost` or `exit_status=127`) holds the operating system's words if the program could not
    be executed. `outputs` are the files that exist, byte for byte; what they are is in `left_outputs` where they
    were left. `refused_outputs` maps the name of one that is too large (by itself, or with those before it) or
    holds a secret to the reason. `tail` are the last lines of the (masked) log. `killed`: it was told to stop
    before it ended. `reached_limit` names the limit that kept it from starting more processes.
    """

    key: str
    at: float
    exit_status: int | None = None
    signal: int | None = None
    lost: str | None = None
    never_started: str | None = None
    killed: bool = False
    outputs: dict[str, bytes] = {}
    left_outputs: dict[str, LeftOutput] = {}
    refused_outputs: dict[str, str] = {}
    tail: str = ""
    reached_limit: str = ""


Observer = Callable[[ProcessStarted | ProcessEnded], None]


class Processes(Protocol):
    """Raises `UnavailableError` where the keeper cannot be reached; it is started again when that happens. What
    was spawned here, or seen to be alive, ends as lost where the journal that had it is lost. Before
    anything else can be asked for, what such a journal of this state folder had is ended."""

    @property
    def journal(self) -> str:
        """Names what tells `known` what was started. Of another name, it is a new one, in place of one that was
        lost: who is not in it may have been started all the same. Empty while that is not known."""

    async def spawn(self, request: ProcessRequest) -> None:
        """Returns once the claim is safe. A key that is known already is never started a second time. Raises
        `StartError` where the request is too large to be handed over."""

    async def stop(self, key: str, grace_s: float) -> None:
        """SIGTERM to the group, SIGKILL after the grace time; its end is reported. Unknown keys are ignored."""

    async def forget(self, key: str) -> None:
        """The end of the process is recorded elsewhere."""

    async def known(self, prefix: str) -> Sequence[ProcessStarted | ProcessEnded]:
        """The latest of every key below the prefix that was not forgotten."""

    def observe(self, prefix: str, observer: Observer) -> None:
        """Call the observer (from the event loop) for every event of keys below the prefix from now on.

        Events of a daemon's absence are delivered again after the keeper was adopted; an observer may
        hear of the same event twice."""

    async def close_listener(self, name: str) -> None:
        """The keeper forgets the listening socket; processes that have it keep it."""
