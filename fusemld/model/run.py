"""Runs, their steps and attempts. Times are seconds since the epoch."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import immutables
import msgspec

from fusemld.model.codeset import DEFAULT_PROJECT, PinnedCodeset
from fusemld.model.extension import ResolvedService


class RunState(enum.StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepState(enum.StrEnum):
    """`waiting` for other steps, `queued` for a slot, `starting` (intent recorded), `running`, `backoff`
    (before the next attempt); the rest is final. `skipped`: a step that it needs did not succeed."""

    WAITING = "waiting"
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "backoff"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"

    @property
    def is_final(self) -> bool:
        return self in _FINAL

    @property
    def is_active(self) -> bool:
        """An attempt of the step may exist outside, and it holds a slot."""
        return self in (StepState.STARTING, StepState.RUNNING)


_FINAL = frozenset({StepState.SUCCEEDED, StepState.FAILED, StepState.CANCELLED, StepState.SKIPPED})


class Ending(enum.StrEnum):
    """How an attempt ended. Those in `NOBODYS_FAULT` are repeated without using up `retry`.

    `lost`: nobody can tell any more how it ended, or whether it began. `deleted`: somebody else removed it, or
    what it needed to begin.
    """

    SUCCEEDED = "succeeded"
    PROGRAM_FAILED = "program failed"
    SIGNALLED = "killed by a signal"
    OUT_OF_MEMORY = "out of memory"
    OUTPUT_MISSING = "output missing"
    OUTPUT_REFUSED = "output refused"
    CANNOT_START = "cannot start"
    TIMED_OUT = "timed out"
    CANCELLED = "cancelled"
    IMAGE_UNAVAILABLE = "image cannot be pulled"
    MISCONFIGURED = "configuration error"
    UNSCHEDULABLE = "unschedulable"
    EVICTED = "evicted"
    PREEMPTED = "preempted"
    NODE_LOST = "node lost"
    DELETED = "deleted from outside"
    LOST = "lost"


NOBODYS_FAULT = frozenset({Ending.EVICTED, Ending.PREEMPTED, Ending.NODE_LOST, Ending.DELETED, Ending.LOST})


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The end of an attempt, with its cause in words (`message`) and the last lines of its log (`tail`)."""

    ending: Ending
    message: str = ""
    exit_status: int | None = None
    tail: str = ""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """`reason` says why there is this attempt: `first`, or what ended the one before it."""

    number: int
    reason: str
    launched_at: float
    started_at: float | None = None
    ended_at: float | None = None
    outcome: Outcome | None = None


class StepRun(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a run.

    `reason` says what an unfinished step waits for, `since` when that began, `deadline` when the engine gives
    up waiting (None only while `reason` names other steps) or, in backoff, begins the next attempt. `reason` is
    stored, so it says nothing that changes as time goes by. `kill_requested` holds the ending to record when
    an attempt that was told to stop has stopped. Attempts with numbers up to `reserved` may have been made
    although none is recorded (the database is a copy of an earlier one): no number is given twice. `outputs_file`
    is where the store has the outputs, if they are too long for the database: its own name for it.
    """

    name: str
    state: StepState = StepState.WAITING
    reason: str = ""
    since: float = 0.0
    deadline: float | None = None
    attempts: tuple[Attempt, ...] = ()
    retries_used: int = 0
    losses: int = 0
    reserved: int = 0
    kill_requested: Ending | None = None
    outputs: dict[str, str] = {}
    outputs_file: str = ""
    services: tuple[ResolvedService, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def attempt(self) -> int:
        """The number of the latest attempt, 0 before the first."""
        return self.attempts[-1].number if self.attempts else 0

    @property
    def next_attempt(self) -> int:
        return max(self.attempt, self.reserved) + 1


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a workflow.

    `inputs` are the values as text, defaults included; of a codeset input its reference. `codesets` maps the
    text of every codeset reference that a step mounts to what it was pinned to, None until that is done.
    `unmet` counts for every waiting step the steps that it still waits for, `unfinished` the steps that are not
    final; of a run that was just loaded they are empty and None, and the engine derives them. `cause` says what
    asked for the run, for people and for `once per generation`. `user` is the owner of the file or of the
    request.
    """

    id: str
    workflow: str
    workflow_digest: str
    project: str = DEFAULT_PROJECT
    user: str = ""
    cause: str = ""
    executor: str = "process"
    inputs: dict[str, str] = {}
    created_at: float
    finished_at: float | None = None
    state: RunState = RunState.RUNNING
    message: str = ""
    cancel_requested: bool = False
    codesets: dict[str, PinnedCodeset] | None = None
    steps: immutables.Map[str, StepRun] = immutables.Map()
    unmet: immutables.Map[str, int] = immutables.Map()
    unfinished: int | None = None
    outputs: dict[str, str] = {}


LONG_OUTPUTS = 32 * 1024
"""In characters, of all outputs of one step together. Everybody would wait where the keeper tells more of them,
and where they are committed with the rest: such go from file to file."""


SUMMARY_LENGTH = 4096
"""In characters, of an output of a run that is shown in a list of runs."""


def are_long(outputs: Mapping[str, str]) -> bool:
    return sum(len(name) + len(value) for name, value in outputs.items()) > LONG_OUTPUTS


class AttemptKey(msgspec.Struct, frozen=True, order=True):
    """Names one attempt everywhere: in executors, logs, claims and messages."""

    run: str
    step: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.run}/{self.step}/{self.attempt}"
