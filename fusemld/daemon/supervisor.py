"""The single writer of every run: take events, advance, commit, then perform the effects.

All runs share one loop. What arrived while a commit was under way is advanced together and committed
together, so the number of commits does not grow with the number of runs.
"""

from __future__ import annotations

import collections
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import anyio
import msgspec
import structlog
from anyio.abc import TaskStatus

from fusemld.daemon.pulse import Pulse
from fusemld.daemon.timers import Timers
from fusemld.engine import effects, events
from fusemld.engine.admission import Admission
from fusemld.engine.advance import advance
from fusemld.engine.begin import deadlines, resume
from fusemld.engine.plan import Plan
from fusemld.model import faults
from fusemld.model.errors import ConflictError, FusemldError, ImpossibleTransitionError, NotFoundError
from fusemld.model.run import AttemptKey, Run
from fusemld.store.changes import Change, PutRun
from fusemld.store.errors import StoreConflictError, StoreError
from fusemld.store.sqlite import Store

log = structlog.get_logger(__name__)

LAZY_S = 0.05
"""How long an event that nobody waits for may wait for company before it is committed."""
WRITE_RETRY_S = 1.0
BATCH = 1000


class Performer(Protocol):
    """Performs effects: returns at once, answers by `Supervisor.post`."""

    def perform(self, run: Run, plan: Plan, effect: effects.AnyEffect, *, recovered: bool) -> None: ...

    def recorded(self, key: AttemptKey) -> None:
        """The end of the attempt is safe: whoever ran it may forget it."""


class Planner(Protocol):
    async def plan(self, workflow_digest: str) -> Plan: ...


class _Active:
    """A run in memory. `broken` says why it no longer advances: a bug, kept visible."""

    __slots__ = ("broken", "plan", "run")

    def __init__(self, run: Run, plan: Plan) -> None:
        self.run = run
        self.plan = plan
        self.broken: str | None = None


class _Done:
    """What the poster of an event waits for."""

    __slots__ = ("error", "event")

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.error: FusemldError | None = None


class _Posted(msgspec.Struct, frozen=True):
    run: str
    event: events.AnyEvent
    entry: _Active | None = None
    """A run that is not in memory yet: a new one, or one that had ended."""
    is_new: bool = False
    changes: tuple[Change, ...] = ()
    done: _Done | None = None


class _Batch:
    """One turn of the loop: runs before and after, and what is to be written and done."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.changed: dict[str, set[str]] = {}
        self.entries: dict[str, _Active] = {}
        self.new: set[str] = set()
        self.changes: dict[str, list[Change]] = {}
        self.effects: list[tuple[str, effects.AnyEffect]] = []
        self.done: list[_Done] = []
        self.ended: list[AttemptKey] = []


class Supervisor:
    def __init__(
        self, *, store: Store, planner: Planner, admission: Admission, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._planner = planner
        self._admission = admission
        self._clock = clock
        self._active: dict[str, _Active] = {}
        self._queue: collections.deque[_Posted] = collections.deque()
        self._urgent = anyio.Event()
        self._any = anyio.Event()
        self._timers = Timers(clock, self._deadline_passed)
        self._performer: Performer | None = None
        self._watched: weakref.WeakValueDictionary[str, Pulse] = weakref.WeakValueDictionary()
        self.changed = Pulse()
        """Any run changed."""
        self.trouble: str | None = None
        """Why nothing can be committed now."""

    @property
    def active(self) -> Mapping[str, _Active]:
        return self._active

    def find(self, run_id: str) -> Run | None:
        """An unfinished run as it is now."""
        entry = self._active.get(run_id)
        return entry.run if entry else None

    def plan_of(self, run_id: str) -> Plan | None:
        entry = self._active.get(run_id)
        return entry.plan if entry else None

    def broken(self, run_id: str) -> str | None:
        entry = self._active.get(run_id)
        return entry.broken if entry else None

    def queued(self, run_id: str, step: str) -> str | None:
        """Where a queued step stands, and what holds it up; None for any other step."""
        position = self._admission.position((run_id, step))
        if position is None:
            return None
        holdup = self._admission.holdup((run_id, step))
        return f"{position} steps before it" + (f"; {holdup}" if holdup else "")

    @property
    def slots_held(self) -> int:
        return self._admission.held

    async def load(self, runs: Sequence[Run]) -> None:
        """Take unfinished runs of an earlier daemon into memory, before `run`."""
        for run in runs:
            self._active[run.id] = _Active(run, await self._planner.plan(run.workflow_digest))

    async def run(
        self, performer: Performer, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Go on from the loaded state and serve until cancelled."""
        self._performer = performer
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._timers.run, name="supervisor timers")
            for entry in list(self._active.values()):
                self._resume(entry)
            self._wake()
            task_status.started()
            await self._loop()

    def _resume(self, entry: _Active) -> None:
        for name, deadline in deadlines(entry.run):
            self._timers.add(deadline, entry.run.id, name)
        for step in entry.run.steps.values():
            if step.state.is_active:
                self._admission.occupy((entry.run.id, step.name), entry.run.workflow)
        for effect in resume(entry.run, entry.plan):
            if isinstance(effect, effects.RequestSlot):
                self._admission.request((entry.run.id, effect.step), entry.run.workflow)
            else:
                self._perform(entry, effect, recovered=True)

    def post(self, run_id: str, event: events.AnyEvent) -> None:
        """Something happened. Events of runs that are over are dropped: they are late."""
        self._put(_Posted(run_id, event))

    async def create(self, run: Run, changes: Sequence[Change] = ()) -> None:
        """Start the run; returns when it is safe, with `changes` in the same transaction."""
        entry = _Active(run, await self._planner.plan(run.workflow_digest))
        done = _Done()
        event = events.RunCreated(at=self._clock())
        self._put(_Posted(run.id, event, entry=entry, is_new=True, changes=tuple(changes), done=done))
        await self._settled(done)

    async def request(self, run_id: str, event: events.CancelRequested | events.RetryRequested) -> None:
        """A person's wish; returns when it is recorded. Raises `NotFoundError`, `ConflictError`."""
        entry: _Active | None = None
        if run_id not in self._active:
            run = await self._store.run(run_id)
            if run is None:
                raise NotFoundError(f"cannot change run {run_id}: there is no such run")
            if not isinstance(event, events.RetryRequested):
                raise ConflictError(f"cannot cancel run {run_id}: it has ended already ({run.state})")
            entry = _Active(run, await self._planner.plan(run.workflow_digest))
        done = _Done()
        self._put(_Posted(run_id, event, entry=entry, done=done))
        await self._settled(done)

    def watch(self, run_id: str) -> Pulse:
        """Fires whenever the run changes; alive as long as somebody holds it."""
        pulse = self._watched.get(run_id)
        if pulse is None:
            pulse = self._watched[run_id] = Pulse()
        return pulse

    def touch(self, run_id: str) -> None:
        """Something worth showing changed that is not part of the run's state."""
        self._fire(run_id)
        self.changed.fire()

    def _fire(self, run_id: str) -> None:
        pulse = self._watched.get(run_id)
        if pulse is not None:
            pulse.fire()

    @staticmethod
    async def _settled(done: _Done) -> None:
        await done.event.wait()
        if done.error is not None:
            raise done.error

    def _put(self, posted: _Posted) -> None:
        self._queue.append(posted)
        if isinstance(posted.event, events.StepStarted):
            self._any.set()
        else:
            self._wake()

    def _wake(self) -> None:
        self._any.set()
        self._urgent.set()

    def _deadline_passed(self, run_id: str, step: str, deadline: float) -> None:
        run = self.find(run_id)
        if run is not None and run.steps[step].deadline == deadline and not run.steps[step].state.is_final:
            self.post(run_id, events.DeadlinePassed(at=self._clock(), step=step))

    async def _loop(self) -> None:
        while True:
            await self._any.wait()
            with anyio.move_on_after(LAZY_S):
                await self._urgent.wait()
            self._any, self._urgent = anyio.Event(), anyio.Event()
            batch = self._advance_all()
            if batch.changes:
                faults.point("supervisor.advanced")
            await self._commit(batch)
            self._publish(batch)
            if self._queue:
                self._wake()

    def _advance_all(self) -> _Batch:
        batch = _Batch()
        for _ in range(min(len(self._queue), BATCH)):
            self._advance_one(batch, self._queue.popleft())
        while admitted := self._admission.admit():
            now = self._clock()
            for run_id, step in admitted:
                self._advance_one(batch, _Posted(run_id, events.StepAdmitted(at=now, step=step)))
        return batch

    def _advance_one(self, batch: _Batch, posted: _Posted) -> None:
        entry = self._active.get(posted.run) or batch.entries.get(posted.run) or posted.entry
        if posted.done is not None:
            batch.done.append(posted.done)
        if isinstance(posted.event, events.StepFinished):
            batch.ended.append(AttemptKey(posted.run, posted.event.step, posted.event.attempt))
        if entry is None or entry.broken is not None:
            if posted.done is not None:
                why = "it has ended" if entry is None else f"it is broken: {entry.broken}"
                posted.done.error = ConflictError(f"cannot change run {posted.run}: {why}")
            return
        run = batch.runs.get(posted.run, entry.run)
        try:
            result = advance(run, posted.event, entry.plan)
        except ConflictError as error:
            if posted.done is not None:
                posted.done.error = error
            return
        except ImpossibleTransitionError as error:
            log.exception("run.broken", run=posted.run, event=type(posted.event).__name__)
            entry.broken = str(error)
            return
        batch.entries[posted.run] = entry
        if posted.is_new:
            batch.new.add(posted.run)
        batch.changes.setdefault(posted.run, []).extend(posted.changes)
        batch.runs[posted.run] = result.run
        batch.changed.setdefault(posted.run, set()).update(result.changed)
        for effect in result.effects:
            match effect:
                case effects.RequestSlot():
                    self._admission.request((posted.run, effect.step), run.workflow)
                case effects.ReleaseSlot():
                    self._admission.release((posted.run, effect.step))
                case _:
                    batch.effects.append((posted.run, effect))

    async def _commit(self, batch: _Batch) -> None:
        """Returns once everything is safe. A database that cannot be written stops the engine, not the daemon."""
        for run_id, run in batch.runs.items():
            changed = None if run_id in batch.new else tuple(batch.changed[run_id])
            batch.changes[run_id].append(PutRun(run, changed))
        if not batch.changes:
            return
        try:
            await self._written([change for changes in batch.changes.values() for change in changes])
        except StoreConflictError:
            await self._commit_each(batch)

    async def _commit_each(self, batch: _Batch) -> None:
        """One of the runs contradicts what is stored: a bug, which stops that run and no other."""
        for run_id, changes in batch.changes.items():
            try:
                await self._written(changes)
            except StoreConflictError as error:
                log.exception("run.broken", run=run_id)
                batch.entries[run_id].broken = str(error)
                del batch.runs[run_id]
        batch.effects = [(run_id, effect) for run_id, effect in batch.effects if run_id in batch.runs]

    async def _written(self, changes: Sequence[Change]) -> None:
        while True:
            try:
                await self._store.write(*changes)
            except StoreError as error:
                if self.trouble is None:
                    log.error("store.unavailable", error=str(error))
                self.trouble = str(error)
                await anyio.sleep(WRITE_RETRY_S)
            else:
                self.trouble = None
                return

    def _publish(self, batch: _Batch) -> None:
        if batch.runs:
            faults.point("supervisor.committed")
        self._active |= batch.entries
        for run_id, run in batch.runs.items():
            self._active[run_id].run = run
            for name in batch.changed[run_id]:
                step = run.steps[name]
                if step.deadline is not None and not step.state.is_final:
                    self._timers.add(step.deadline, run_id, name)
        for run_id, effect in batch.effects:
            self._perform(self._active[run_id], effect, recovered=False)
        for run_id, run in batch.runs.items():
            if run.finished_at is not None:
                del self._active[run_id]
                log.info("run.finished", run=run_id, state=run.state, message=run.message)
            self._fire(run_id)
        if batch.runs:
            self.changed.fire()
        if batch.runs:
            faults.point("supervisor.performed")
        for key in batch.ended:
            self._performer_now.recorded(key)
        for done in batch.done:
            done.event.set()

    def _perform(self, entry: _Active, effect: effects.AnyEffect, *, recovered: bool) -> None:
        self._performer_now.perform(entry.run, entry.plan, effect, recovered=recovered)

    @property
    def _performer_now(self) -> Performer:
        assert self._performer is not None, "the loop runs only with a performer"
        return self._performer
