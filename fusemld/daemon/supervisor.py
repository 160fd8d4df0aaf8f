"""The single writer of every run: take events, advance, commit, then perform the effects.

All runs share one loop. What arrived while a commit was under way is advanced together and committed
together, so the number of commits does not grow with the number of runs.
"""

from __future__ import annotations

import asyncio
import collections
import time
import weakref
from collections.abc import Mapping, Sequence

import anyio
import msgspec
import structlog
from anyio.abc import TaskStatus

from fusemld.daemon import queueing
from fusemld.daemon.ends import Ends
from fusemld.daemon.pulse import Pulse
from fusemld.daemon.surroundings import Clock, Performer, Planner
from fusemld.daemon.timers import Timers
from fusemld.engine import effects, events
from fusemld.engine.admission import Admission
from fusemld.engine.advance import advance
from fusemld.engine.begin import deadlines, resume
from fusemld.engine.plan import Plan
from fusemld.model import faults
from fusemld.model.errors import ConflictError, FusemldError, NotFoundError, UnavailableError
from fusemld.model.run import AttemptKey, Run
from fusemld.store.changes import Change, DeleteRuns, PutRun
from fusemld.store.errors import StoreError
from fusemld.store.reads import DamagedRun
from fusemld.store.sqlite import Store

log = structlog.get_logger(__name__)

LAZY_S = 0.05
"""How long an event that nobody waits for may wait for company before it is committed."""
WRITE_RETRY_S = 1.0
BATCH = 1000


class ActiveRun:
    """A run in memory. `broken` says why it no longer advances: a bug, kept visible. Its attempts go on, and what
    they report is left with their executor. `plan` is None only for a run that broke when it was loaded."""

    __slots__ = ("broken", "plan", "run")

    def __init__(self, run: Run, plan: Plan | None, broken: str | None = None) -> None:
        self.run = run
        self.plan = plan
        self.broken = broken


class _Done:
    """What the poster of an event waits for. `is_over`: the run had ended, and nobody had read it again."""

    __slots__ = ("error", "event", "is_over")

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.error: FusemldError | None = None
        self.is_over = False


class _Posted(msgspec.Struct, frozen=True):
    run: str
    event: events.AnyEvent
    entry: ActiveRun | None = None
    """A run that is not in memory yet: a new one, or one that had ended."""
    is_new: bool = False
    changes: tuple[Change, ...] = ()
    done: _Done | None = None


class _Batch:
    """One turn of the loop: runs before and after, and what is to be written and done."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.changed: dict[str, set[str]] = {}
        self.entries: dict[str, ActiveRun] = {}
        self.new: set[str] = set()
        self.changes: dict[str, list[Change]] = {}
        self.clock: Change | None = None
        self.effects: list[tuple[str, effects.AnyEffect]] = []
        self.done: list[tuple[str, _Done]] = []
        self.ended: list[AttemptKey] = []


class Supervisor:
    def __init__(self, *, store: Store, planner: Planner, admission: Admission, clock: Clock) -> None:
        self._store = store
        self._planner = planner
        self._admission = admission
        self._clock = clock
        self._active: dict[str, ActiveRun] = {}
        self._queue: collections.deque[_Posted] = collections.deque()
        self._awake = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        """Wakes the loop for what nobody waits for."""
        self._reviving = anyio.Lock()
        self._has_begun = False
        self._timers = Timers(clock, self._deadline_passed, self._wake)
        self._performer: Performer | None = None
        self._watched: weakref.WeakValueDictionary[str, Pulse] = weakref.WeakValueDictionary()
        self.changed = Pulse()
        """Any run changed."""
        self.ends = Ends()
        self.trouble: str | None = None
        """Why nothing can be committed now."""
        self.busy_since: float | None = None
        """Since when (`time.monotonic`) the same events are being applied and stored; None between two turns."""

    @property
    def active(self) -> Mapping[str, ActiveRun]:
        return self._active

    def find(self, run_id: str) -> Run | None:
        """An unfinished run as it is now."""
        entry = self._active.get(run_id)
        return entry.run if entry else None

    def holdup(self, run_id: str, step: str) -> str:
        """Which limit keeps a queued step from its slot; empty for any other step."""
        return queueing.holdup(self._admission, (run_id, step))

    def queued(self, run_id: str, step: str) -> str | None:
        """Where a queued step stands, and what holds it up; None for any other step. Counts all that is queued."""
        return queueing.place(self._admission, (run_id, step))

    @property
    def slots_held(self) -> int:
        return self._admission.held

    @property
    def admission(self) -> Admission:
        """For those who look whether it agrees with the runs."""
        return self._admission

    async def load(self, runs: Sequence[Run]) -> None:
        """Take unfinished runs of an earlier daemon into memory, before `run`. One that cannot be is broken."""
        for run in runs:
            if isinstance(run, DamagedRun):
                log.error("run.broken", run=run.id, error=run.damage)
                self._active[run.id] = ActiveRun(run, None, broken=run.damage)
                continue
            try:
                entry = ActiveRun(run, await self._planner.plan(run.workflow_digest))
            except StoreError:
                raise
            except Exception as error:
                log.exception("run.broken", run=run.id)
                entry = ActiveRun(run, None, broken=str(error))
            self._active[run.id] = entry

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

    def _resume(self, entry: ActiveRun) -> None:
        run = entry.run
        for step in run.steps.values():
            if step.state.is_active:
                self._admission.occupy((run.id, step.name), run.workflow)
        if entry.plan is None:
            return
        try:
            again = resume(run, entry.plan)
        except Exception as error:
            log.exception("run.broken", run=run.id)
            entry.broken = str(error)
            return
        for name, deadline in deadlines(run):
            self._timers.set(run.id, name, deadline)
        now = self._clock()
        if any(run.steps[name].since > now for name, _ in deadlines(run)):
            self.post(run.id, events.ClockMoved(at=now, by_s=0.0))
        for effect in again:
            if isinstance(effect, effects.RequestSlot):
                self._admission.request((run.id, effect.step), run.workflow)
            else:
                self._performer_now.perform(run, entry.plan, effect, recovered=True)

    def post(self, run_id: str, event: events.AnyEvent) -> None:
        """Something happened. Events of runs that are over are dropped: they are late."""
        self._put(_Posted(run_id, event))

    async def create(self, run: Run, plan: Plan, changes: Sequence[Change] = ()) -> None:
        """Start the run; returns when it is safe, with `changes` in the same transaction. Raises `ConflictError`
        where they contradict what is stored: then nothing of it is."""
        entry = ActiveRun(run, plan)
        event = events.RunCreated(at=self._clock())
        await self._settled(_Posted(run.id, event, entry=entry, is_new=True, changes=tuple(changes), done=_Done()))

    async def request(self, run_id: str, event: events.CancelRequested | events.RetryRequested) -> None:
        """A person's wish; returns when it is recorded. Raises `NotFoundError`, `ConflictError`."""
        if run_id in self._active and await self._is_settled(run_id, event, None):
            return
        # One after the other: a run that was read must still be as it was read when the event is applied to it.
        async with self._reviving:
            while not await self._is_settled(run_id, event, await self._ended(run_id, event)):
                pass

    async def forget_ended(self, run_ids: Sequence[str]) -> tuple[str, ...]:
        """Delete those of the runs that have ended; which. None of them can be asked to go on meanwhile.

        Raises `UnavailableError` at once where another one that was asked to waits for the database.
        """
        if self._reviving.locked() and self.trouble is not None:
            raise UnavailableError(self.trouble)
        async with self._reviving:
            ended = tuple(run_id for run_id in run_ids if run_id not in self._active)
            await self._store.write(DeleteRuns(ended))
        return ended

    async def _ended(self, run_id: str, event: events.CancelRequested | events.RetryRequested) -> ActiveRun | None:
        """The run as it was stored at its end; None where it goes on."""
        if run_id in self._active:
            return None
        run = await self._store.run(run_id)
        if run is None:
            raise NotFoundError(f"cannot change run {run_id}: there is no such run")
        if isinstance(run, DamagedRun):
            raise ConflictError(f"cannot change run {run_id}: {run.damage}")
        if not isinstance(event, events.RetryRequested):
            raise ConflictError(f"cannot cancel run {run_id}: it has ended already ({run.state})")
        return ActiveRun(run, await self._planner.plan(run.workflow_digest))

    async def _is_settled(self, run_id: str, event: events.AnyEvent, entry: ActiveRun | None) -> bool:
        """False: the run ended before the event came to it."""
        done = _Done()
        try:
            await self._settled(_Posted(run_id, event, entry=entry, done=done))
        except ConflictError:
            if not done.is_over:
                raise
        return not done.is_over

    async def _settled(self, posted: _Posted) -> None:
        assert posted.done is not None
        self._put(posted)
        await posted.done.event.wait()
        if posted.done.error is not None:
            raise posted.done.error

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

    def _put(self, posted: _Posted) -> None:
        self._queue.append(posted)
        if not isinstance(posted.event, events.StepStarted):
            self._wake()
        elif self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(LAZY_S, self._wake)

    def _wake(self) -> None:
        self._awake.set()

    def _deadline_passed(self, run_id: str, step: str) -> None:
        self.post(run_id, events.DeadlinePassed(at=self._clock(), step=step))

    async def _loop(self) -> None:
        while True:
            await self._awake.wait()
            self._awake.clear()
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None
            self.busy_since = time.monotonic()
            batch = self._advance_all()
            if self._queue:
                self._wake()
            if batch.changes:
                faults.point("supervisor.advanced")
            await self._commit(batch)
            self._publish(batch)
            self.busy_since = None

    def _advance_all(self) -> _Batch:
        batch = _Batch()
        now, by_s = self._clock.read()
        if by_s:
            self._follow_clock(batch, now, by_s)
        if by_s or not self._has_begun:
            self._has_begun = True
            batch.clock = self._clock.record()
        for _ in range(min(len(self._queue), BATCH)):
            self._advance_one(batch, self._queue.popleft())
        while admitted := self._admission.admit():
            for run_id, step in admitted:
                self._advance_one(batch, _Posted(run_id, events.StepAdmitted(at=now, step=step)))
        return batch

    def _follow_clock(self, batch: _Batch, now: float, by_s: float) -> None:
        """Move what is to happen in every run, after what was posted before the clock was set."""
        log.warning("clock.set", by_s=round(by_s, 1))
        while self._queue and abs(self._queue[0].event.at - (now - by_s)) < abs(self._queue[0].event.at - now):
            self._advance_one(batch, self._queue.popleft())
        for run_id in self._active | batch.entries:
            self._advance_one(batch, _Posted(run_id, events.ClockMoved(at=now, by_s=by_s)))

    def _advance_one(self, batch: _Batch, posted: _Posted) -> None:
        entry = self._active.get(posted.run) or batch.entries.get(posted.run) or posted.entry
        if posted.done is not None:
            batch.done.append((posted.run, posted.done))
        if entry is None or entry.plan is None or entry.broken is not None:
            self._set_aside(batch, posted, entry)
            return
        run = batch.runs.get(posted.run, entry.run)
        try:
            result = advance(run, posted.event, entry.plan)
        except ConflictError as error:
            if posted.done is not None:
                posted.done.error = error
            return
        except Exception as error:
            log.exception("run.broken", run=posted.run, at=type(posted.event).__name__)
            self._break(entry, run, str(error))
            self._set_aside(batch, posted, entry)
            return
        batch.entries[posted.run] = entry
        if posted.is_new:
            batch.new.add(posted.run)
        batch.changes.setdefault(posted.run, []).extend(posted.changes)
        batch.runs[posted.run] = result.run
        batch.changed.setdefault(posted.run, set()).update(result.changed)
        if isinstance(posted.event, events.StepFinished):
            batch.ended.append(AttemptKey(posted.run, posted.event.step, posted.event.attempt))
        for effect in result.effects:
            match effect:
                case effects.RequestSlot():
                    self._admission.request((posted.run, effect.step), run.workflow)
                case effects.ReleaseSlot():
                    self._admission.release((posted.run, effect.step))
                case _:
                    batch.effects.append((posted.run, effect))

    def _set_aside(self, batch: _Batch, posted: _Posted, entry: ActiveRun | None) -> None:
        """The event of a run that is over (None) or broken. The end of an attempt of the latter stays with its
        executor: a daemon without the bug may take it up."""
        event = posted.event
        if isinstance(event, events.StepFinished):
            self._admission.release((posted.run, event.step))
            if entry is None:
                batch.ended.append(AttemptKey(posted.run, event.step, event.attempt))
        if posted.done is not None:
            posted.done.is_over = entry is None
            why = "it has ended" if entry is None else f"it is broken: {entry.broken}"
            posted.done.error = ConflictError(f"cannot change run {posted.run}: {why}")

    def _break(self, entry: ActiveRun, run: Run, why: str) -> None:
        """No step of the run starts any more; those under way keep their slots."""
        entry.broken = why
        for name, step in run.steps.items():
            if not step.state.is_active:
                self._admission.release((run.id, name))
                self._timers.set(run.id, name, None)

    async def _commit(self, batch: _Batch) -> None:
        """Returns once everything is safe. A database that cannot be written stops the engine, not the daemon."""
        for run_id, run in batch.runs.items():
            if run_id in batch.new:
                batch.changes[run_id].append(PutRun(run))
            else:
                changed, before = tuple(batch.changed[run_id]), batch.entries[run_id].run
                batch.changes[run_id].append(PutRun(run, changed, before))
        changes = [change for changes in batch.changes.values() for change in changes]
        if batch.clock is not None:
            changes.append(batch.clock)
        if not changes:
            return
        try:
            await self._written(changes)
        except Exception:  # noqa: BLE001 - whose it is, and what, is found out and logged there
            await self._commit_each(batch)

    async def _commit_each(self, batch: _Batch) -> None:
        """One of the runs contradicts what is stored: a bug, which stops that run and no other."""
        if batch.clock is not None:
            await self._written([batch.clock])
        for run_id, changes in batch.changes.items():
            try:
                await self._written(changes)
            except Exception as error:
                log.exception("run.broken", run=run_id)
                self._refuse(batch, run_id, str(error))
        batch.effects = [(run_id, effect) for run_id, effect in batch.effects if run_id in batch.runs]
        batch.ended = [key for key in batch.ended if key.run in batch.runs or key.run not in batch.changes]

    def _refuse(self, batch: _Batch, run_id: str, why: str) -> None:
        """The run stays as it was before the batch; one that is new never was."""
        entry = batch.entries[run_id]
        self._break(entry, entry.run, why)
        del batch.runs[run_id]
        if run_id in batch.new:
            del batch.entries[run_id]
        for name, done in batch.done:
            if name == run_id:
                done.error = ConflictError(f"cannot change run {run_id}: {why}")

    async def _written(self, changes: Sequence[Change]) -> None:
        while True:
            try:
                await self._store.write(*changes)
            except StoreError as error:
                if self.trouble is None:
                    log.error("store.unavailable", error=str(error))
                self.trouble = str(error)
                await anyio.sleep(WRITE_RETRY_S)
            except Exception:
                self.trouble = None
                raise
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
                self._timers.set(run_id, name, run.steps[name].deadline)
        for run_id, effect in batch.effects:
            entry = self._active[run_id]
            assert entry.plan is not None, "a run without plan does not advance"
            self._performer_now.perform(entry.run, entry.plan, effect, recovered=False)
        for run_id, run in batch.runs.items():
            if run.finished_at is not None:
                del self._active[run_id]
                self.ends.add(run_id)
                log.info("run.finished", run=run_id, state=run.state, message=run.message)
            self._fire(run_id)
        if batch.runs:
            self.changed.fire()
        if batch.runs:
            faults.point("supervisor.performed")
        for key in batch.ended:
            self._performer_now.recorded(key)
        for _, done in batch.done:
            done.event.set()

    @property
    def _performer_now(self) -> Performer:
        assert self._performer is not None, "the loop runs only with a performer"
        return self._performer
