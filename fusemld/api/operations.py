"""What the API needs of the daemon: the daemon implements it, tests have an in-memory one.

Any method raises a `FusemldError` for what the caller did wrong or what cannot be done now: the server answers
with its text. `run` arguments are what a person typed: an id, an unambiguous beginning of one, or `latest`;
unknown ones raise `NotFoundError`, ambiguous ones `InvalidInputError` naming the candidates. Views are made by
`fusemld.api.present`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol

from fusemld.api.registry_views import CheckView, ExplanationView, ExtensionView
from fusemld.api.views import (
    ApplicationView,
    CodesetView,
    FileView,
    HealthView,
    LogFiles,
    RunFilter,
    RunSummary,
    RunView,
    ServiceView,
    UpkeepView,
    VersionView,
    WhyView,
    WorkflowView,
)


class Operations(Protocol):
    async def version(self) -> VersionView: ...

    async def health(self) -> HealthView: ...

    async def stop(self, everything: bool) -> None:
        """Ask the daemon to stop and return at once; `everything` ends steps, services and applications too."""

    async def collect_garbage(self, dry_run: bool) -> UpkeepView:
        """Let go of everything that may go; returns when that is done. With `dry_run` only say what would go."""

    async def backup(self) -> AsyncGenerator[bytes]:
        """A copy of the database, checked, as it is at one moment: the content of a SQLite file."""

    # Runs

    async def runs(self, wanted: RunFilter) -> Sequence[RunSummary]:
        """Newest first."""

    async def run(self, run: str) -> RunView: ...

    async def start_run(
        self, workflow: str, inputs: Mapping[str, str], executor: str | None, user: str
    ) -> RunView:
        """Create a run; `InvalidInputError` has every problem of the inputs, one a line."""

    async def cancel(self, run: str, by: str) -> RunView:
        """Ask for it and return; `ConflictError` where the run is over."""

    async def retry(self, run: str, by: str) -> RunView:
        """Go on from what failed; `ConflictError` where there is nothing to repeat."""

    async def why(self, run: str) -> WhyView: ...

    async def log_files(self, run: str, step: str | None, attempt: int | None) -> LogFiles:
        """The logs of the run, of one step, or of one attempt of it; `NotFoundError` where there is no such
        step or attempt."""

    def changes(self, run: str | None) -> AsyncGenerator[RunView]:
        """The run (None: every unfinished one) as it is now, then again whenever it or an `activity` of it has
        changed, coalesced: a slow reader misses states in between, never the last one. Ends after the
        final state of the given run was given.

        For None also the final state of every run that has ended since this was called, begun before or after,
        unless it was deleted meanwhile. It ends only when it is closed, or with `UnavailableError` where more
        runs have ended since the reader took the last view than the daemon remembers (thousands): the reader
        learns in that way that it has missed some, lists the runs and listens again."""

    # The watched folder

    async def files(self) -> Sequence[FileView]:
        """In order of path and line."""

    # What is registered; sequences in order of name

    async def workflows(self) -> Sequence[WorkflowView]: ...

    async def workflow(self, name: str) -> WorkflowView: ...

    async def codesets(self) -> Sequence[CodesetView]: ...

    async def codeset(self, project: str, name: str) -> CodesetView: ...

    async def extensions(self) -> Sequence[ExtensionView]: ...

    async def extension(self, id: str) -> ExtensionView: ...  # noqa: A002

    async def explain(self, workflow: str, project: str | None, user: str) -> ExplanationView:
        """What every requirement of the workflow resolves to for a run of that project (None: `default`) and
        user, without starting anything."""

    async def check_extension(self, id: str, project: str | None, user: str) -> Sequence[CheckView]:  # noqa: A002
        """Ask the live services of the record, with the credentials that a run of that project (None: `default`)
        and user would be given."""

    # What runs outlive

    async def applications(self) -> Sequence[ApplicationView]: ...

    async def application(self, name: str) -> ApplicationView: ...

    async def delete_application(self, name: str, *, orphan: bool = False) -> None:
        """Stop what serves it and forget it; with `orphan`, whatever it has in a cluster or an object store is
        left there."""

    async def services(self) -> Sequence[ServiceView]: ...
