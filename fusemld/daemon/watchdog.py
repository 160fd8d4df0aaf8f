"""Turns what would be silence into an error that is seen: invariants of live runs, the engine, endless tasks.

It reports, in the journal, in the health report and in `fuseml why`, and never changes a run: whatever it would
change by guesswork could be a step that runs twice. Only a daemon that does nothing at all is ended, by systemd.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import anyio
import anyio.lowlevel
import msgspec
import structlog

from fusemld.daemon import systemd
from fusemld.daemon.invariants import Attempts, Finding, of_loop, of_run, of_slots, of_unknown
from fusemld.engine.admission import Admission
from fusemld.engine.plan import Plan
from fusemld.model.errors import FusemldError
from fusemld.model.progress import Progress
from fusemld.model.run import Run, RunState
from fusemld.store.reads import RunQuery

log = structlog.get_logger(__name__)

AT_ONCE = 100
"""How many runs are looked at before others get their turn."""
RUNNING = RunQuery(state=RunState.RUNNING)


class Entry(Protocol):
    """A run in memory: see `fusemld.daemon.supervisor.ActiveRun`."""

    run: Run
    plan: Plan | None
    broken: str | None


class Engine(Protocol):
    """The part of the supervisor that is looked at."""

    trouble: str | None
    busy_since: float | None

    @property
    def active(self) -> Mapping[str, Entry]: ...
    @property
    def admission(self) -> Admission: ...


class Records(Protocol):
    """The part of the store that is looked at."""

    async def run_count(self, query: RunQuery | None = None) -> int: ...
    async def unfinished_runs(self) -> list[Run]: ...


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds: between two looks, how long something may be wrong before it is told, between two signs of life,
    how late one of these may come, how long the engine may take for one turn, an attempt to end when it was told
    to, and an endless task to get on."""

    look_s: float = 10.0
    lasts_s: float = 30.0
    beat_s: float = 1.0
    lag_s: float = 5.0
    turn_s: float = 30.0
    stops_s: float = 70.0
    stands_s: float = 300.0


class _Check:
    """One thing to look at. While a look does not return no other is begun: `silence` is what is wrong then.
    `seen` is what the latest look found, and since when every look has; `lasting` is what of it is told."""

    __slots__ = ("is_under_way", "lasting", "look", "seen", "silence")

    def __init__(self, look: Callable[[], Awaitable[list[Finding]]], silence: Finding) -> None:
        self.look = look
        self.silence = silence
        self.is_under_way = False
        self.seen: dict[Finding, float] = {}
        self.lasting: list[Finding] = []


class Watchdog:
    """`findings` is what is wrong now and has been for a while."""

    def __init__(
        self,
        engine: Engine,
        attempts: Attempts,
        records: Records,
        loops: Sequence[tuple[str, Progress]] = (),
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        patience: Patience | None = None,
    ) -> None:
        self._engine = engine
        self._attempts = attempts
        self._records = records
        self._loops = loops
        self._clock = clock
        self._monotonic = monotonic
        self._patience = patience or Patience()
        self._worst_lag_s = 0.0
        self._at_once: tuple[Finding, ...] = ()
        """What was measured over a while already."""
        self._live = _Check(self._live_runs, Finding(subject="engine", message="a look at its runs does not end"))
        self._checks = (
            self._live,
            _Check(self._standing, Finding(subject="loops", message="a look at them does not end")),
            _Check(self._forgotten, Finding(subject="store", message="the database does not answer")),
            *(
                _Check(
                    partial(self._unknown, name), Finding(subject=f"executor {name}", message="it does not answer")
                )
                for name in attempts.executors
            ),
        )
        self.findings: tuple[Finding, ...] = ()

    def of(self, run: str) -> tuple[str, ...]:
        """What is wrong with the run."""
        return tuple(finding.message for finding in self.findings if finding.run == run)

    async def run(self) -> None:
        """Look until cancelled. A look that does not return holds up no other."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._beat, name="watchdog beat")
            while True:
                await anyio.sleep(self._patience.look_s)
                tasks.start_soon(self.look, name="watchdog look")

    async def look(self) -> None:
        """Look at everything once, but for what an earlier look has not returned from."""
        self._at_once = self._blocked()
        async with anyio.create_task_group() as tasks:
            for check in self._checks:
                if check.is_under_way:
                    self._take(check, [check.silence])
                else:
                    tasks.start_soon(self._look_at, check, name=f"watchdog look at {check.silence.subject}")

    async def _look_at(self, check: _Check) -> None:
        check.is_under_way = True
        try:
            found = await check.look()
        except FusemldError as error:
            found = [Finding(subject=check.silence.subject, message=str(error))]
        except Exception as error:  # noqa: BLE001 - logged there
            found = [_failed(check, error, check.silence.subject)]
        finally:
            check.is_under_way = False
        self._take(check, found)

    def _take(self, check: _Check, found: list[Finding]) -> None:
        now = self._monotonic()
        check.seen = {finding: check.seen.get(finding, now) for finding in found}
        check.lasting = [finding for finding, first in check.seen.items() if now - first >= self._patience.lasts_s]
        self._tell((*self._at_once, *(finding for check in self._checks for finding in check.lasting)))

    def _tell(self, findings: tuple[Finding, ...]) -> None:
        before, self.findings = self.findings, findings
        for finding in findings:
            if finding not in before:
                log.error("invariant.broken", subject=finding.subject, message=finding.message)
        for finding in before:
            if finding not in findings:
                log.info("invariant.restored", subject=finding.subject, message=finding.message)

    def _blocked(self) -> tuple[Finding, ...]:
        lag_s, self._worst_lag_s = self._worst_lag_s, 0.0
        if lag_s < self._patience.lag_s:
            return ()
        message = f"nothing was done for {lag_s:.0f} s: this process was blocked, or stopped, or had no processor"
        return (Finding(subject="event loop", message=message),)

    async def _live_runs(self) -> list[Finding]:
        """What looks wrong with the runs in memory and with their slots. Where nothing can be stored nothing goes
        on: that is told alone."""
        if self._engine.trouble is not None:
            return []  # a health component of its own says so
        busy_since = self._engine.busy_since
        if busy_since is not None and self._monotonic() - busy_since >= self._patience.turn_s:
            return [
                Finding(subject="engine", message="what happened cannot be stored: the database does not answer")
            ]
        found: list[Finding] = []
        now = self._clock()
        for number, entry in enumerate(list(self._engine.active.values()), start=1):
            if entry.plan is not None and entry.broken is None and entry.run.state is RunState.RUNNING:
                try:
                    found += of_run(
                        entry.run,
                        entry.plan,
                        now,
                        self._engine.admission,
                        self._attempts,
                        self._patience.stops_s,
                    )
                except Exception as error:  # noqa: BLE001 - logged there
                    found.append(_failed(self._live, error, f"run {entry.run.id}", entry.run.id))
            if number % AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()
        found += of_slots(self._engine.admission, self._find)
        return found

    def _find(self, run_id: str) -> Run | None:
        entry = self._engine.active.get(run_id)
        return None if entry is None else entry.run

    async def _standing(self) -> list[Finding]:
        """Endless tasks that should have got on; where nothing can be stored they wait for that."""
        if self._engine.trouble is not None:
            return []
        now = self._monotonic()
        return [
            finding
            for subject, progress in self._loops
            for finding in of_loop(subject, progress, now, self._patience.stands_s)
        ]

    async def _forgotten(self) -> list[Finding]:
        """Runs that are stored as unfinished, and that nobody works on."""
        if self._engine.trouble is not None:
            return []
        if await self._records.run_count(RUNNING) <= len(self._engine.active):
            return []
        return [
            Finding(subject=f"run {run.id}", message="it is not over, and nobody works on it", run=run.id)
            for run in await self._records.unfinished_runs()
            if run.id not in self._engine.active
        ]

    async def _unknown(self, executor: str) -> list[Finding]:
        """Attempts of sound runs that their executor does not know."""
        unknown = await self._attempts.unknown(executor)
        sound = [key for key in unknown if (entry := self._engine.active.get(key.run)) and entry.broken is None]
        return list(of_unknown(sound, executor, self._find))

    async def _beat(self) -> None:
        """Show that the event loop turns: to systemd, and to ourselves by how late the next turn is."""
        awaited_s = systemd.watchdog_s()
        pause_s = self._patience.beat_s if awaited_s is None else min(self._patience.beat_s, awaited_s / 3)
        while True:
            before = self._monotonic()
            if awaited_s is not None:
                systemd.notify("WATCHDOG=1")
            await anyio.sleep(pause_s)
            self._worst_lag_s = max(self._worst_lag_s, self._monotonic() - before - pause_s)


def _failed(check: _Check, error: Exception, subject: str, run: str = "") -> Finding:
    """A look that raises is a bug: that of one thing must not hide what is wrong with others."""
    finding = Finding(subject=subject, message=f"it cannot be looked at: {type(error).__name__}: {error}", run=run)
    if finding not in check.seen:
        log.error("watchdog.failed", subject=subject, exc_info=error)
    return finding
