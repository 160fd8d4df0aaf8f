"""Steps that plugins bring: computing ones get a command in an executor, steering ones run in the daemon."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from fusemld.hooks.clusters import Clusters
from fusemld.hooks.environments import Environments
from fusemld.hooks.services import Services
from fusemld.hooks.stores import ObjectStore
from fusemld.model.application import Application
from fusemld.model.codeset import PinnedCodeset
from fusemld.model.extension import ServiceAccess
from fusemld.model.run import AttemptKey


class StepInputs(msgspec.Struct, frozen=True, kw_only=True):
    """The inputs that a plugin step knows. `required` ones must be given; `ignored` ones are accepted with a
    warning; with `open` any other name is accepted too. Codeset inputs are always accepted."""

    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    ignored: Mapping[str, str] = {}
    """Name to the reason why it has no meaning here."""
    open: bool = False


class LocalCommand(msgspec.Struct, frozen=True, kw_only=True):
    """How an image is run as a process. `path` folders go first on PATH. `folders` are writable or readable
    places outside the step's own working folder that it must reach even in a sandbox."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = {}
    path: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()


class RuntimeFolders(msgspec.Struct, frozen=True, kw_only=True):
    """`environments` holds built environments, `cache` uv's cache, on one file system."""

    environments: Path
    cache: Path

    @property
    def writable(self) -> tuple[Path, ...]:
        """What a builder must reach. Where both lie in one folder that is it: a sandbox mounts each on its own,
        and files cannot be linked from one mount to another."""
        together = self.environments.parent == self.cache.parent
        return (self.cache.parent,) if together else (self.environments, self.cache)


class ProcessRuntime(Protocol):
    """Claims image repositories (`ghcr.io/fuseml/mlflow-builder`, without tag) for the process executor."""

    repositories: tuple[str, ...]
    inputs: StepInputs

    def command(self, image: str, folders: RuntimeFolders) -> LocalCommand:
        """Raises `StartError` where the image is not known here (any more), saying what to do."""


class PodRuntime(Protocol):
    """Claims image repositories for executors that run containers. What nobody claims is run as it is."""

    repositories: tuple[str, ...]
    inputs: StepInputs
    small_output: bool
    """Its single output is text of less than 4 KiB."""

    def image(self, image: str) -> str:
        """The image to run. Raises `StartError` where it has no meaning in a container, saying what to do."""


class Applications(Protocol):
    async def get(self, name: str) -> Application | None: ...

    async def record(self, application: Application) -> None:
        """Insert or update. Raises `ConflictError` where a newer run has already updated it."""


class StepContext(Protocol):
    """What a steering step may use. Everything is safe to repeat: the step is run again after a restart."""

    key: AttemptKey
    workflow: str
    project: str
    executor: str
    run_created_at: float
    inputs: Mapping[str, str]
    """Every input with a value, by its name; of a codeset input its reference."""
    codesets: Mapping[str, PinnedCodeset]
    """By input name."""
    extensions: Mapping[str, ServiceAccess]
    """By requirement name, as the daemon sees them."""
    outputs: tuple[str, ...]
    services: Services
    clusters: Clusters
    environments: Environments
    applications: Applications
    folders: RuntimeFolders
    work: Path
    """A folder of the plugin's own below the state folder; it persists."""
    is_killed: bool
    """Set before the step is cancelled for good (by a user, or by its deadline). A step that is cancelled
    without it is run again by the next daemon."""

    def note(self, text: str) -> None:
        """One line that tells a person what is going on right now; it is logged too."""

    def log(self, text: str) -> None:
        """One line for the step's log, masked."""

    async def as_daemon(self, access: ServiceAccess) -> ServiceAccess:
        """The same service of the same record as the daemon itself reaches it: another endpoint, where the step's
        executor is in another zone than the daemon."""

    def object_store(self, access: ServiceAccess) -> ObjectStore:
        """The object store behind a resolved `s3` service."""


class PluginStep(Protocol):
    """A steering step: async code in the daemon that claims image repositories (without tag)."""

    repositories: tuple[str, ...]
    inputs: StepInputs

    async def run(self, context: StepContext) -> Mapping[str, str]:
        """The outputs. Raises `FusemldError` to fail the step with that message; `UnavailableError` is retried
        with backoff until the attempt's deadline."""
