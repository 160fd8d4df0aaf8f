"""What happened. Times (`at`, seconds since the epoch) and identifiers come in with the events."""

from __future__ import annotations

import msgspec

from fusemld.model.codeset import PinnedCodeset
from fusemld.model.extension import ResolvedService
from fusemld.model.run import Outcome


class Event(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    at: float


class RunCreated(Event, frozen=True, kw_only=True, tag=True):
    """The first event of every run."""


class CodesetsPinned(Event, frozen=True, kw_only=True, tag=True):
    """Everything that `codeset_references` asks for. The first ones stay."""

    codesets: dict[str, PinnedCodeset]


class CodesetsUnavailable(Event, frozen=True, kw_only=True, tag=True):
    """A codeset does not exist or could not be had in time; the run fails with `message`."""

    message: str


class StepAdmitted(Event, frozen=True, kw_only=True, tag=True):
    """The step got a slot."""

    step: str


class StepStarted(Event, frozen=True, kw_only=True, tag=True):
    step: str
    attempt: int
    services: tuple[ResolvedService, ...] = ()
    warnings: tuple[str, ...] = ()


class StepFinished(Event, frozen=True, kw_only=True, tag=True):
    """The attempt is over and leaves nothing running. `outputs` count only if it succeeded; `outputs_file` is
    where the store has the declared ones already, if it has."""

    step: str
    attempt: int
    outcome: Outcome
    outputs: dict[str, str] = {}
    outputs_file: str = ""
    services: tuple[ResolvedService, ...] = ()
    warnings: tuple[str, ...] = ()


class DeadlinePassed(Event, frozen=True, kw_only=True, tag=True):
    """The deadline that the step carried passed: of pinning, a queue, an attempt, a kill or a backoff."""

    step: str


class ClockMoved(Event, frozen=True, kw_only=True, tag=True):
    """Somebody set the wall clock, by so many seconds: what was to happen in an hour still happens in an hour."""

    by_s: float


class CancelRequested(Event, frozen=True, kw_only=True, tag=True):
    by: str = ""


class RetryRequested(Event, frozen=True, kw_only=True, tag=True):
    """Go on from what failed: steps that succeeded stay."""

    by: str = ""


AnyEvent = (
    RunCreated
    | CodesetsPinned
    | CodesetsUnavailable
    | StepAdmitted
    | StepStarted
    | StepFinished
    | DeadlinePassed
    | ClockMoved
    | CancelRequested
    | RetryRequested
)
