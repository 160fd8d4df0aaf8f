"""The interface between the daemon and what runs attempts of steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec
from anyio.abc import TaskStatus

from fusemld.model.run import AttemptKey, Outcome

PROCESS: Final = "process"
"""Name of the executor of this host; steps of any other run in containers elsewhere."""


class MountedCodeset(msgspec.Struct, frozen=True, kw_only=True):
    """`source` is the pinned, read-only copy on the daemon's disk; the attempt gets a private writable one
    at `path`, with `.fuseml/_org` and `.fuseml/_project`. `url` is where git can fetch `version` from, empty for a
    folder; `credentials` are what git needs for that (`username` and `password`, or `ssh_key`), and `secrets` the
    values of them that must not be seen."""

    path: str
    project: str
    name: str
    version: str
    digest: str
    source: Path
    size_bytes: int = 0
    url: str = ""
    credentials: Mapping[str, str] = {}
    secrets: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"MountedCodeset(path={self.path!r}, name={self.name!r}, version={self.version!r})"


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that an executor needs to start an attempt. In memory only: it holds secrets.

    `env` is complete but for `FUSEML_CODESET_DIR` and `FUSEML_RESULTS_DIR`, which the executor knows;
    `secret_env` is a part of the environment that must not be seen outside. `secrets` are the values that
    are masked in logs and refused in outputs. `outputs` are the names to collect. `command` and `args` are
    the user's, None where the document has none. `timeout_s` is how long the step may run. `small_output`: a
    plugin knows that the single output is text of less than 4 KiB. `recovered` says that this attempt may already
    be known outside: it was recorded as launched before the daemon started.
    """

    key: AttemptKey
    workflow: str = ""
    image: str
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: Mapping[str, str] = {}
    secret_env: Mapping[str, str] = {}
    secrets: frozenset[str] = frozenset()
    codesets: tuple[MountedCodeset, ...] = ()
    outputs: tuple[str, ...] = ()
    requests: Mapping[str, str] = {}
    limits: Mapping[str, str] = {}
    timeout_s: float | None = None
    small_output: bool = False
    recovered: bool = False

    def __repr__(self) -> str:
        return f"Launch(key={self.key!s}, image={self.image!r})"


class AttemptStarted(msgspec.Struct, frozen=True, kw_only=True):
    key: AttemptKey
    at: float


class AttemptNoted(msgspec.Struct, frozen=True, kw_only=True):
    """One line that tells a person what the attempt waits for (`unschedulable: 0/3 nodes are available...`);
    empty: nothing any more. Never sent after `AttemptFinished`."""

    key: AttemptKey
    text: str


class AttemptFinished(msgspec.Struct, frozen=True, kw_only=True):
    """Sent once per attempt and daemon life until `forget` is called; again after a restart."""

    key: AttemptKey
    at: float
    outcome: Outcome
    outputs: Mapping[str, str] = {}


Report = Callable[[AttemptStarted | AttemptNoted | AttemptFinished], None]


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """How an executor is, for the health report."""

    ok: bool
    message: str = ""


class Executor(Protocol):
    """Runs attempts.

    `launch` and `kill` return once the request is safe with the executor; what happens then is told through
    `report`. All are safe to repeat. An attempt that cannot be started as described raises `StartError`
    from `launch` (nothing was started then); `UnavailableError` means that nothing is known and the call may
    be repeated.
    """

    name: str
    zone: str

    async def run(self, report: Report, *, task_status: TaskStatus[None]) -> None:
        """Serve until cancelled; signals readiness through `task_status`. Cancelling leaves attempts running."""

    async def launch(self, launch: Launch) -> None: ...

    async def recover(self, keys: Sequence[AttemptKey], spared: Collection[str] = ()) -> frozenset[AttemptKey]:
        """Of the attempts recorded as launched by an earlier daemon, those that are known here and need no
        `launch`: their start or end is reported. Everything else that is known here and not in `keys` is
        stopped and forgotten, but for the attempts of the runs in `spared`, of which nobody can tell whether they
        are wanted: they go on, and their ends are reported and kept. Called after `run` is ready, before anything
        is launched; again where it raises `UnavailableError`, about those that have not ended meanwhile."""

    async def kill(self, key: AttemptKey, grace_s: float) -> None:
        """Stop the attempt; its end is reported. Unknown keys are ignored."""

    async def unknown(self, keys: Sequence[AttemptKey]) -> frozenset[AttemptKey]:
        """Of attempts that were launched here or that `recover` knew: those of which nothing is known any more, so
        that no end of theirs will be reported. Asked now and then; changes nothing."""

    async def forget(self, key: AttemptKey) -> None:
        """The end of the attempt is recorded: whatever was kept for it may go. Its log stays."""

    def log_path(self, key: AttemptKey) -> Path:
        """Where the (masked) log of the attempt is; the file may not exist yet."""

    def condition(self) -> Condition: ...
