"""What the supervisor asks of those around it."""

from __future__ import annotations

from typing import Protocol

from fusemld.engine import effects
from fusemld.engine.plan import Plan
from fusemld.model.run import AttemptKey, Run
from fusemld.store.changes import Change


class Performer(Protocol):
    """Performs effects: returns at once, answers by `Supervisor.post`."""

    def perform(self, run: Run, plan: Plan, effect: effects.AnyEffect, *, recovered: bool) -> None: ...

    def recorded(self, key: AttemptKey) -> None:
        """The end of the attempt is safe: whoever ran it may forget it."""


class Clock(Protocol):
    """See `fusemld.daemon.clock.WallClock`."""

    def __call__(self) -> float: ...
    def read(self) -> tuple[float, float]: ...
    def record(self) -> Change: ...


class Planner(Protocol):
    async def plan(self, workflow_digest: str) -> Plan: ...
