"""What the API asks about runs: see `fusemld.api.operations.Operations`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import anyio

from fusemld.api import present, views
from fusemld.api.why import why_view
from fusemld.daemon.performing import StepPerformer
from fusemld.daemon.plans import Plans
from fusemld.daemon.pulse import Pulse
from fusemld.daemon.supervisor import Supervisor
from fusemld.daemon.tails import last_line
from fusemld.engine import events
from fusemld.engine.plan import Plan
from fusemld.engine.values import codeset_references
from fusemld.model.errors import InvalidInputError, NotFoundError, StartError, UnavailableError
from fusemld.model.run import AttemptKey, Run, RunState, StepRun, StepState
from fusemld.model.workflow import Workflow
from fusemld.store.reads import DamagedRun, RunQuery
from fusemld.store.sqlite import Store

COALESCE_S = 0.05
"""Between two views of a changing run."""
REST = 10
"""So many times what the last view took lies before the next one: a large run that is watched must not take the
event loop from the others. At most:"""
LONGEST_REST_S = 5.0
COUNTED = 100
"""Where more steps of a run are queued, or more runs are listed, the lines do not say how many are before each:
counting is quadratic."""
LOOK_S = 1.0
"""Between two looks at the log of a running step, which nobody tells us about."""


def _none(_run: str) -> Sequence[str]:
    return ()


class RunOperations:
    """Runs as people see them: unfinished ones from memory, ended ones from the store."""

    def __init__(
        self,
        *,
        store: Store,
        supervisor: Supervisor,
        performer: StepPerformer,
        plans: Plans,
        clock: Callable[[], float],
        problems: Callable[[str], Sequence[str]] = _none,
    ) -> None:
        """`problems` are those of a run that somebody has noticed."""
        self._store = store
        self._supervisor = supervisor
        self._performer = performer
        self._plans = plans
        self._clock = clock
        self._problems = problems

    async def runs(self, wanted: views.RunFilter) -> Sequence[views.RunSummary]:
        query = RunQuery(
            workflow=wanted.workflow,
            project=wanted.project,
            state=wanted.state,
            codeset=wanted.codeset,
            limit=wanted.limit,
            summaries=True,
            without_steps=frozenset(
                run_id for run_id, entry in self._supervisor.active.items() if len(entry.run.steps) > COUNTED
            ),
        )
        found = [await self._latest(run) for run in await self._store.runs(query)]
        is_long = len(found) > COUNTED
        return [
            present.run_summary(*await self._with_workflow(run), self._activity(run, is_long=is_long))
            for run in found
        ]

    async def run(self, run: str) -> views.RunView:
        return await self._view(await self._found(run))

    async def cancel(self, run: str, by: str) -> views.RunView:
        self._demand_store()
        found = await self._found(run)
        await self._supervisor.request(found.id, events.CancelRequested(at=self._clock(), by=by))
        return await self._view(await self._found(found.id))

    async def retry(self, run: str, by: str) -> views.RunView:
        self._demand_store()
        found = await self._found(run)
        await self._supervisor.request(found.id, events.RetryRequested(at=self._clock(), by=by))
        return await self._view(await self._found(found.id))

    async def why(self, run: str) -> views.WhyView:
        found = await self._found(run)
        plan = await self._plan(found)
        codesets: tuple[str, ...] = ()
        with contextlib.suppress(InvalidInputError):  # too long for names: the run says so
            codesets = () if plan is None else codeset_references(found.inputs, plan.workflow)
        return why_view(found, plan, self._activity(found), codesets=codesets, trouble=tuple(self._trouble(found)))

    async def log_files(self, run: str, step: str | None, attempt: int | None) -> views.LogFiles:
        found = await self._found(run)
        if step is not None and step not in found.steps:
            names = ", ".join(await self._ordered(found))
            raise NotFoundError(
                f"cannot show the log of {step!r}: run {found.id} has no such step (it has: {names})"
            )
        chosen = [found.steps[name] for name in ([step] if step is not None else await self._ordered(found))]
        files = [
            (entry.launched_at, self._log_file(found, one, entry.number, entry.ended_at is not None))
            for one in chosen
            for entry in one.attempts
            if attempt is None or entry.number == attempt
        ]
        if attempt is not None and not files:
            numbers = sorted({entry.number for one in chosen for entry in one.attempts})
            there_are = f"there are: {', '.join(map(str, numbers))}" if numbers else "there is none yet"
            raise NotFoundError(
                f"cannot show the log of attempt {attempt}: there is no such attempt ({there_are})"
            )
        return views.LogFiles(
            files=tuple(file for _, file in sorted(files, key=lambda pair: pair[0])),
            complete=found.state is not RunState.RUNNING or all(one.state.is_final for one in chosen),
        )

    def changes(self, run: str | None) -> AsyncGenerator[views.RunView]:
        # What ends from now on is told, however late the first view is asked for.
        return self._all_changes(self._supervisor.ends.count) if run is None else self._run_changes(run)

    async def _run_changes(self, run: str) -> AsyncGenerator[views.RunView]:
        found = await self._found(run)
        pulse = self._supervisor.watch(found.id)
        shown: views.RunView | None = None
        while True:
            seen = pulse.version
            began = time.perf_counter()
            found = await self._found(found.id)
            view = await self._view(found)
            if view != shown:
                shown = view
                yield view
            if found.state is not RunState.RUNNING:
                return
            rest_s = _rest_s(time.perf_counter() - began)
            with anyio.move_on_after(LOOK_S):
                await pulse.wait(seen)
            await anyio.sleep(rest_s)

    async def _all_changes(self, told: int) -> AsyncGenerator[views.RunView]:
        """`told` is how many runs had ended when the listener came."""
        pulse: Pulse = self._supervisor.changed
        shown: dict[str, tuple[Run, Mapping[str, str]]] = {}
        while True:
            seen = pulse.version
            began = time.perf_counter()
            current = {run_id: entry.run for run_id, entry in self._supervisor.active.items()}
            ended = [run_id for run_id in self._supervisor.ends.since(told) if run_id not in current]
            told = self._supervisor.ends.count
            for run_id in ended:
                shown.pop(run_id, None)
                run = await self._store.run(run_id)
                # It may be gone or go on by now; if it goes on, it ends again.
                if run is not None and run.state is not RunState.RUNNING:
                    yield present.run_view(*await self._with_workflow(run))
            for run_id, run in current.items():
                activity = self._activity(run)
                if shown.get(run_id) != (run, activity):
                    shown[run_id] = run, activity
                    yield present.run_view(*await self._with_workflow(run), activity)
            rest_s = _rest_s(time.perf_counter() - began)
            await pulse.wait(seen)
            await anyio.sleep(rest_s)

    def _demand_store(self) -> None:
        """Whoever asks is told at once that nothing can be recorded now, instead of having to wait."""
        if self._supervisor.trouble is not None:
            raise UnavailableError(self._supervisor.trouble)

    async def _found(self, typed: str) -> Run:
        active = self._supervisor.find(typed)
        if active is not None:
            return active
        run_id = await self._store.find_run(typed)
        active = self._supervisor.find(run_id)
        stored = active or await self._store.run(run_id)
        if stored is None:
            raise NotFoundError(f"cannot find run {typed}: there is no such run")
        return stored

    async def _latest(self, run: Run) -> Run:
        """A run of a list as it is now, with its steps: one that was read without may have ended meanwhile."""
        active = self._supervisor.find(run.id)
        if active is not None or run.steps:
            return active or run
        return await self._store.run(run.id) or run

    async def _with_workflow(self, run: Run) -> tuple[Run, Workflow | None]:
        plan = await self._plan(run)
        return run, None if plan is None else plan.workflow

    async def _plan(self, run: Run) -> Plan | None:
        if isinstance(run, DamagedRun):
            return None  # what it has need not fit the plan
        try:
            return await self._plans.plan(run.workflow_digest)
        except (NotFoundError, StartError):
            return None

    def _trouble(self, run: Run) -> Iterator[str]:
        """What holds up an unfinished run and is none of its steps' doing, the worst first."""
        entry = self._supervisor.active.get(run.id)
        if entry is None:
            return
        if entry.broken is not None:
            yield f"it does not go on, because of an error of fusemld's own: {entry.broken}"
        if self._supervisor.trouble is not None:
            yield f"nothing goes on as long as nothing can be recorded: {self._supervisor.trouble}"
        yield from self._problems(run.id)

    async def _view(self, run: Run) -> views.RunView:
        return present.run_view(*await self._with_workflow(run), self._said(run) | self._activity(run))

    def _said(self, run: Run) -> dict[str, str]:
        """What running steps last wrote to their logs."""
        keys = (
            AttemptKey(run.id, step.name, step.attempt)
            for step in run.steps.values()
            if step.state is StepState.RUNNING
        )
        return {key.step: line for key in keys if (line := last_line(self._performer.log_path(key)))}

    def _activity(self, run: Run, *, is_long: bool = False) -> dict[str, str]:
        """The live line of every step that has one; where codesets are fetched, that of every waiting step."""
        if run.state is not RunState.RUNNING:
            return {}
        pinning = self._performer.pinning.get(run.id)
        is_long = is_long or sum(step.state is StepState.QUEUED for step in run.steps.values()) > COUNTED
        lines: dict[str, str] = {}
        for step in run.steps.values():
            line = self._step_activity(run, step, is_long=is_long) or (
                pinning if step.state is StepState.WAITING else None
            )
            if line:
                lines[step.name] = line
        return lines

    def _step_activity(self, run: Run, step: StepRun, *, is_long: bool) -> str | None:
        if step.state is StepState.QUEUED:
            place = self._supervisor.holdup if is_long else self._supervisor.queued
            return place(run.id, step.name)
        return self._performer.activity.get(AttemptKey(run.id, step.name, step.attempt))

    async def _ordered(self, run: Run) -> list[str]:
        """The names of its steps as they are listed."""
        _, workflow = await self._with_workflow(run)
        return [step.name for step in workflow.steps] if workflow is not None else sorted(run.steps)

    def _log_file(self, run: Run, step: StepRun, attempt: int, has_ended: bool) -> views.LogFile:
        path: Path = self._performer.log_path(AttemptKey(run.id, step.name, attempt))
        return views.LogFile(step=step.name, attempt=attempt, path=path, finished=has_ended)


def _rest_s(took_s: float) -> float:
    return min(max(COALESCE_S, REST * took_s), LONGEST_REST_S)
