"""What the API returns. Times are RFC 3339 strings in UTC on the wire (`datetime` here: see `moment`),
durations are seconds, unknown is `null`. Every field is always there, but for the parts of a workflow, which
show what was written. No view ever holds the value of a credential. Outputs that are not text are `data:` URLs.
"""

from __future__ import annotations

import datetime as dt
import enum
from pathlib import Path
from typing import Annotated

import msgspec

from fusemld.model.codeset import PinnedCodeset
from fusemld.model.extension import ResolvedService
from fusemld.model.problem import Problem
from fusemld.model.run import Ending, RunState, StepState

Time = Annotated[dt.datetime, msgspec.Meta(tz=True)]
EARLIEST, LATEST = (dt.datetime(year, 1, 1, tzinfo=dt.UTC).timestamp() for year in (2, 9999))
"""What can be shown in every time zone."""
HIDDEN = "***"
"""Stands for the value of every credential, whatever it is."""


def moment(epoch: float) -> Time:
    """The time of an epoch in seconds, to the millisecond; the nearest that can be shown where that one cannot."""
    if not epoch < LATEST:  # what is not a number is not
        epoch = LATEST
    return dt.datetime.fromtimestamp(round(max(epoch, EARLIEST), 3), dt.UTC)


class View(msgspec.Struct, frozen=True, kw_only=True):
    pass


# Runs


class AttemptView(View, frozen=True, kw_only=True):
    """`number` names it in logs and is no count: once the database was restored, numbers that may have been given
    since the copy are left out. `tail` are the last lines of its (masked) log, filled in where it failed."""

    number: int
    reason: str
    launched_at: Time
    started_at: Time | None = None
    ended_at: Time | None = None
    duration_s: float | None = None
    ending: Ending | None = None
    message: str = ""
    exit_status: int | None = None
    tail: str = ""


class StepView(View, frozen=True, kw_only=True):
    """`reason`, `since` and `deadline` say what an unfinished step waits for, since when and until when;
    `activity` is the live line of a step that is being worked on (`installing environment: 38 packages`).
    `started_at` is the launch of the first attempt, `finished_at` the end of the last one. `duration_s` is what
    the attempts took together, without the time between them in which nothing ran; None until the step is over.
    """

    name: str
    image: str = ""
    state: StepState
    reason: str = ""
    activity: str = ""
    since: Time | None = None
    deadline: Time | None = None
    started_at: Time | None = None
    finished_at: Time | None = None
    duration_s: float | None = None
    attempts: tuple[AttemptView, ...] = ()
    outputs: dict[str, str] = {}
    services: tuple[ResolvedService, ...] = ()
    warnings: tuple[str, ...] = ()


class RunSummary(View, frozen=True, kw_only=True):
    """One line of a list. `now` says in a few words what goes on: `trainer: running`, or why it failed.
    `steps_done` counts the steps that have succeeded, of all `steps_total`: one that failed, was cancelled or
    skipped is not done, and a retry goes on with it. `outputs` has those of at most 4,096 characters."""

    id: str
    workflow: str
    project: str
    user: str = ""
    cause: str = ""
    executor: str
    state: RunState
    message: str = ""
    now: str = ""
    created_at: Time
    finished_at: Time | None = None
    steps_done: int = 0
    steps_total: int = 0
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}


class RunView(View, frozen=True, kw_only=True):
    """A run with its steps in the order of the workflow. `failed_step` is the one that the run fails of: the first
    to fail, which `message` names; empty where none has failed."""

    id: str
    workflow: str
    project: str
    user: str = ""
    cause: str = ""
    executor: str
    state: RunState
    message: str = ""
    failed_step: str = ""
    cancel_requested: bool = False
    created_at: Time
    finished_at: Time | None = None
    inputs: dict[str, str] = {}
    codesets: dict[str, PinnedCodeset] = {}
    outputs: dict[str, str] = {}
    steps: tuple[StepView, ...] = ()


class WhyItem(View, frozen=True, kw_only=True):
    """One step that has not succeeded: what it waits for and until when, or how it ended.

    `waits_for` are the steps from the first one that it waits for to the one that waits for no other (of a long
    chain the middle is `…`); `then` is what happens at the deadline, or what ends a waiting that has none.
    `attempt_reason` says why there is another attempt than the first.
    """

    step: str
    state: StepState
    reason: str
    activity: str = ""
    waits_for: tuple[str, ...] = ()
    since: Time | None = None
    deadline: Time | None = None
    then: str = ""
    attempt: int = 0
    attempt_reason: str = ""
    tail: str = ""


class WhyView(View, frozen=True, kw_only=True):
    """Why a run is in its state. `headline` is the one sentence, `items` the steps behind it; `trouble` is what
    holds it up that is none of its steps' doing: a broken run, a database that cannot be written."""

    run: str
    workflow: str
    state: RunState
    headline: str
    trouble: tuple[str, ...] = ()
    items: tuple[WhyItem, ...] = ()
    next: tuple[str, ...] = ()
    """Commands that help from here."""


# The stream of changes: one JSON object a line


class RunChanged(View, frozen=True, kw_only=True, tag_field="type", tag="run"):
    """The run as it is now; states in between may have been left out."""

    run: RunView


class Ping(View, frozen=True, kw_only=True, tag_field="type", tag="ping"):
    """Nothing happened for a while, and the daemon is alive."""

    at: Time


StreamItem = RunChanged | Ping


class LogLine(View, frozen=True, kw_only=True):
    """What is no UTF-8 in `line` is marked as such."""

    step: str
    attempt: int
    line: str


class LogFile(msgspec.Struct, frozen=True, kw_only=True):
    """The log of one attempt on the daemon's disk. It may not exist yet; `finished` says that nothing follows."""

    step: str
    attempt: int
    path: Path
    finished: bool


class LogFiles(msgspec.Struct, frozen=True, kw_only=True):
    """In the order in which the attempts were launched. `complete`: there will be no other file."""

    files: tuple[LogFile, ...]
    complete: bool


# The watched folder


class FileView(View, frozen=True, kw_only=True):
    """One document of a file, or a file that could not be read at all (`kind` and `name` empty).

    `state`: `registered`, `waiting` (for what `detail` names), `rejected` (for `problems`), `shadowed` (by
    the file that `detail` names), `unavailable` (the folder has vanished), `pending` (not complete yet). `path` is
    relative to the watched folder. `run` is the latest run that it started.
    """

    path: str
    line: int = 1
    kind: str = ""
    name: str = ""
    state: str
    detail: str = ""
    generation: int = 0
    run: str | None = None
    problems: tuple[Problem, ...] = ()


# Workflows: a superset of the reference's payload


class WorkflowInputView(View, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    description: str = ""
    type: str = "string"
    default: str | None = None
    labels: tuple[str, ...] = ()


class WorkflowOutputView(View, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    description: str = ""
    type: str = "string"
    value: str | None = None


class CodesetMountView(View, frozen=True, kw_only=True):
    name: str
    path: str


class StepInputView(View, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    value: str | None = None
    codeset: CodesetMountView | None = None


class OutputImageView(View, frozen=True, kw_only=True):
    name: str
    dockerfile: str


class StepOutputView(View, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    image: OutputImageView | None = None


class RequirementView(View, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    extension_id: str = ""
    service_id: str = ""
    product: str = ""
    version: str = ""
    zone: str = ""
    service_resource: str = ""
    service_category: str = ""


class EnvVarView(View, frozen=True, kw_only=True):
    name: str
    value: str


class ResourcesView(View, frozen=True, kw_only=True):
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}


class RetryView(View, frozen=True, kw_only=True):
    limit: int
    backoff_s: float
    max_backoff_s: float


class WorkflowStepView(View, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    image: str
    inputs: tuple[StepInputView, ...] = ()
    outputs: tuple[StepOutputView, ...] = ()
    extensions: tuple[RequirementView, ...] = ()
    env: tuple[EnvVarView, ...] = ()
    resources: ResourcesView | None = None
    needs: tuple[str, ...] | None = None
    retry: RetryView | None = None
    timeout_s: float | None = None
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None


class WorkflowView(View, frozen=True, kw_only=True):
    """The reference's `Workflow` and what goes beyond it. `file` declared it, where it came from the folder."""

    name: str
    description: str = ""
    inputs: tuple[WorkflowInputView, ...] = ()
    outputs: tuple[WorkflowOutputView, ...] = ()
    steps: tuple[WorkflowStepView, ...]
    executor: str | None = None
    order: str = "dag"
    file: str = ""
    created: Time | None = None


# Codesets, applications, services: supersets of the reference's payloads


class CodesetView(View, frozen=True, kw_only=True):
    """`version` is what the latest run pinned, None where no run did. `url` has no credentials in it; of a
    folder it is a `file:` URL."""

    project: str
    name: str
    description: str = ""
    labels: tuple[str, ...] = ()
    url: str = ""
    ref: str | None = None
    path: str | None = None
    version: str | None = None
    file: str = ""


class ObjectView(View, frozen=True, kw_only=True):
    kind: str
    name: str


class ApplicationView(View, frozen=True, kw_only=True):
    """`state` is that of its service (`ready`, `starting`, `failed`...), empty where the daemon runs none.
    `copies` are the prefixes in an object store that go with it."""

    name: str
    type: str
    url: str
    description: str = ""
    workflow: str = ""
    k8s_namespace: str = ""
    k8s_resources: tuple[ObjectView, ...] = ()
    project: str = ""
    run: str = ""
    revision: int = 1
    state: str = ""
    services: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    updated_at: Time | None = None


class ServiceView(View, frozen=True, kw_only=True):
    """An embedded service. `state`: `building`, `starting`, `ready`, `backoff`, `failed`, `stopped`; `since` is
    when that began, or when the process started if an earlier daemon left it serving; `detail` is the live line
    or the reason; `log` is a path on the daemon's host."""

    name: str
    kind: str
    state: str
    url: str = ""
    detail: str = ""
    pid: int | None = None
    since: Time | None = None
    restarts: int = 0
    log: str = ""


# The daemon itself


class PluginView(View, frozen=True, kw_only=True):
    name: str
    version: str


class VersionView(View, frozen=True, kw_only=True):
    """The reference's `VersionInfo`, where it has a meaning here, and what goes beyond it."""

    version: str
    platform: str = ""
    python: str = ""
    plugins: tuple[PluginView, ...] = ()


class HealthState(enum.StrEnum):
    OK = "ok"
    DEGRADED = "degraded"


class ComponentHealth(View, frozen=True, kw_only=True):
    """One part of the daemon (`keeper`, `watched folder`, `store`, an executor...)."""

    name: str
    ok: bool
    message: str = ""


class HealthView(View, frozen=True, kw_only=True):
    """`degraded` if any component is not ok."""

    state: HealthState
    pid: int
    started_at: Time
    folder: str
    state_folder: str
    runs_active: int = 0
    steps_active: int = 0
    components: tuple[ComponentHealth, ...] = ()


class UpkeepPart(View, frozen=True, kw_only=True):
    """Of one kind of thing, what went (or would go) and what stays. `kept_by` counts the latter by what keeps it;
    the database does not tell how many bytes a thing in it takes, which is then 0. `error` says why not everything
    of this kind could be looked at or removed."""

    what: str
    removed: int = 0
    removed_bytes: int = 0
    kept: int = 0
    kept_bytes: int = 0
    kept_by: dict[str, int] = {}
    error: str = ""


class UpkeepView(View, frozen=True, kw_only=True):
    """With `dry_run` nothing was removed."""

    dry_run: bool
    parts: tuple[UpkeepPart, ...]


# What clients send


class StartRun(View, frozen=True, kw_only=True, forbid_unknown_fields=True):
    workflow: str
    inputs: dict[str, str] = {}
    executor: str | None = None


class StopDaemon(View, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`everything`: end steps, services and applications too."""

    everything: bool = False


class CollectGarbage(View, frozen=True, kw_only=True, forbid_unknown_fields=True):
    dry_run: bool = False


class RunFilter(View, frozen=True, kw_only=True):
    """Newest first, at most `limit`. `codeset` is `PROJECT/NAME`, used by any input of the run."""

    workflow: str | None = None
    project: str | None = None
    state: RunState | None = None
    codeset: str | None = None
    limit: int = 100
