"""What must hold of every unfinished run at every moment. Pure: looks, and changes nothing.

What is found may be on its way to be put right: an event under way, a commit. Only what is found again and again
is wrong, and then its text is the same each time, so texts name no durations.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterator
from typing import Protocol

import msgspec

from fusemld.engine.admission import Admission
from fusemld.engine.plan import Plan
from fusemld.engine.waits import unmet_steps
from fusemld.model.progress import Progress
from fusemld.model.run import AttemptKey, Run, StepRun, StepState


class Attempts(Protocol):
    """The part of the performer that is looked at."""

    def knows(self, key: AttemptKey) -> bool:
        """Whether somebody is to report the end of the attempt."""

    def holder(self, key: AttemptKey) -> str:
        """Who that is, in words; empty while its executor has not told what it knows of earlier attempts."""

    def pins(self, run: str) -> bool:
        """Whether the codesets of the run are being fetched."""

    @property
    def executors(self) -> Collection[str]: ...

    async def unknown(self, executor: str) -> frozenset[AttemptKey]:
        """Attempts that the executor was given, and of which it says that it does not know them. Raises
        `UnavailableError`."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """`subject` is what is wrong (`run ID`, `event loop`), `run` its id where it is a run."""

    subject: str
    message: str
    run: str = ""

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}"


def of_run(
    run: Run, plan: Plan, now: float, admission: Admission, attempts: Attempts, stops_s: float
) -> Iterator[Finding]:
    """What is wrong with an unfinished run that is in memory. `stops_s` is how long an attempt that was told to
    stop may take to end."""
    unfinished = [step for step in run.steps.values() if not step.state.is_final]
    if not unfinished:
        yield _about(run, "all its steps are over, and it is not")
    for step in unfinished:
        for message in _of_step(run, step, plan, now, admission, attempts, stops_s):
            yield _about(run, f"step {step.name}: {message}")


def _about(run: Run, message: str) -> Finding:
    return Finding(subject=f"run {run.id}", message=message, run=run.id)


def _of_step(
    run: Run, step: StepRun, plan: Plan, now: float, admission: Admission, attempts: Attempts, stops_s: float
) -> Iterator[str]:
    if not step.reason:
        yield f"it is {step.state} and nothing says why"
    if step.deadline is not None and step.deadline <= now:
        yield f"its deadline passed at {_clock(step.deadline)}, and nothing has happened"
    if step.deadline is None and step.state is not StepState.WAITING:
        yield f"it is {step.state} without a deadline"
    match step.state:
        case StepState.WAITING:
            if (message := _of_waiting(run, step, plan, attempts)) is not None:
                yield message
        case StepState.QUEUED:
            if not admission.knows((run.id, step.name)):
                yield "it waits for a slot, and is not in the line for one"
        case StepState.STARTING | StepState.RUNNING:
            key = AttemptKey(run.id, step.name, step.attempt)
            if not attempts.knows(key):
                yield f"attempt {step.attempt} is {step.state}, and nobody knows of it"
            elif (
                step.kill_requested is not None
                and now - step.since >= stops_s
                and (holder := attempts.holder(key))
            ):
                # Its deadline never passes: that is when it is told again.
                told = f"attempt {step.attempt} was told to stop at {_clock(step.since)}"
                yield f"{told}, and {holder} has not reported its end"
        case _:
            pass


def _of_waiting(run: Run, step: StepRun, plan: Plan, attempts: Attempts) -> str | None:
    unmet = [run.steps[name] for name in unmet_steps(plan, run.steps, step.name)]
    if not unmet and run.codesets is not None:
        return "it waits, and for nothing: it could be started"
    if not unmet and not attempts.pins(run.id):
        return "it waits for the run's codesets, and nobody fetches them"
    dead = next((other for other in unmet if other.state.is_final), None)
    if dead is not None:
        return f"it waits for {dead.name}, which is {dead.state}"
    return None


def of_unknown(
    keys: Collection[AttemptKey], executor: str, find: Callable[[str], Run | None]
) -> Iterator[Finding]:
    """Attempts that are under way, and of which their executor said that it does not know them."""
    for key in sorted(keys):
        run = find(key.run)
        step = None if run is None else run.steps[key.step]
        if run is not None and step is not None and step.state.is_active and step.attempt == key.attempt:
            message = f"attempt {key.attempt} is {step.state}, and executor {executor} does not know it"
            yield _about(run, f"step {key.step}: {message}")


def of_loop(subject: str, progress: Progress, now: float, stands_s: float) -> Iterator[Finding]:
    """What is wrong with a task that never ends and should have got on by now (`time.monotonic`)."""
    if now - progress.due_at >= stands_s:
        message = (
            f"{progress.doing} does not end" if progress.doing else "it has stopped: its next turn is overdue"
        )
        yield Finding(subject=subject, message=message)


def of_slots(admission: Admission, find: Callable[[str], Run | None]) -> Iterator[Finding]:
    """Slots that nobody uses, and free ones that nobody gets. `find` gives unfinished runs."""
    for run_id, name in admission.holders:
        run = find(run_id)
        step = None if run is None else run.steps.get(name)
        # A step that was just admitted is still queued in the run that was committed last.
        if step is None or not (step.state.is_active or step.state is StepState.QUEUED):
            state = "over or unknown" if step is None else step.state
            message = f"step {name} of run {run_id} holds one, and is {state}"
            yield Finding(subject="slots", message=message, run=run_id)
    if admission.has_room():
        yield Finding(subject="slots", message="there are free ones, and steps that wait for one get none")


def _clock(epoch: float) -> str:
    return dt.datetime.fromtimestamp(epoch, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
