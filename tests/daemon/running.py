"""A supervisor with its surroundings, on a real store, and what tests hand it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from fusemld.daemon.plans import Plans
from fusemld.daemon.supervisor import Supervisor
from fusemld.daemon.surroundings import Performer
from fusemld.engine import effects
from fusemld.engine.admission import Admission
from fusemld.engine.begin import new_run
from fusemld.engine.plan import Defaults, Plan
from fusemld.model.document import Document
from fusemld.model.problem import Severity
from fusemld.model.run import AttemptKey, Run
from fusemld.spec.documents import read
from fusemld.store.changes import Change, PutMeta, PutWorkflow
from fusemld.store.errors import StoreError
from fusemld.store.keys import CLOCK
from fusemld.store.sqlite import Store

ROOT = Path("/inbox")

CHAIN = """
name: chain
steps:
  - {name: one, image: host, command: ["true"], outputs: [{name: number}]}
  - {name: two, image: host, command: ["true"]}
"""


def document_of(text: str) -> Document:
    parsed = read(text.encode(), file=ROOT / "file.yaml", root=ROOT)
    assert all(problem.severity is Severity.WARNING for problem in parsed.problems), parsed.problems
    return parsed.documents[0]


class Clock:
    """Stands still until time passes (`now`) or somebody sets it (`set_by`; `set_after_s`: right after it is read
    next)."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.set_after_s = 0.0
        self._set_by_s = 0.0

    def set_by(self, seconds: float) -> None:
        self.now += seconds
        self._set_by_s += seconds

    def read(self) -> tuple[float, float]:
        now, by_s, self._set_by_s = self.now, self._set_by_s, 0.0
        self.set_by(self.set_after_s)
        self.set_after_s = 0.0
        return now, by_s

    def record(self) -> Change:
        return PutMeta(CLOCK, str(self.now))

    def __call__(self) -> float:
        return self.now


class RecordingPerformer:
    """Notes what it is asked for, and performs nothing."""

    def __init__(self) -> None:
        self.effects: list[tuple[str, effects.AnyEffect]] = []
        self.recovered: list[tuple[str, effects.AnyEffect]] = []
        self.safe: list[AttemptKey] = []
        self.on_effect: Callable[[str, effects.AnyEffect], None] = lambda _run, _effect: None

    def perform(self, run: Run, plan: Plan, effect: effects.AnyEffect, *, recovered: bool) -> None:
        (self.recovered if recovered else self.effects).append((run.id, effect))
        self.on_effect(run.id, effect)

    def recorded(self, key: AttemptKey) -> None:
        self.safe.append(key)

    def launched(self) -> list[AttemptKey]:
        return [
            AttemptKey(run, effect.step, effect.attempt)
            for run, effect in self.effects
            if isinstance(effect, effects.LaunchStep)
        ]


class Engine:
    """A supervisor on a real store, with a performer that notes what it is asked for."""

    def __init__(self, store: Store, tasks: TaskGroup, clock: Clock, slots: int | None) -> None:
        self.store = store
        self.clock = clock
        self.tasks = tasks
        self.plans = Plans(store, Defaults())
        self.performer = RecordingPerformer()
        self.supervisor = Supervisor(store=store, planner=self.plans, admission=Admission(slots), clock=clock)

    async def start(self, performer: Performer | None = None) -> None:
        await self.supervisor.load(await self.store.unfinished_runs())
        await self.tasks.start(self.supervisor.run, performer or self.performer)

    def run_of(self, document: Document, id: str = "r1", **inputs: str) -> tuple[Run, Plan, PutWorkflow]:  # noqa: A002
        plan = self.plans.add(document.digest, document.canonical)
        run = new_run(plan, id=id, created_at=self.clock(), inputs=inputs)
        return run, plan, PutWorkflow(document.digest, document.name, document.canonical)

    async def create(self, document: Document, id: str = "r1", **inputs: str) -> Run:  # noqa: A002
        run, plan, workflow = self.run_of(document, id, **inputs)
        await self.supervisor.create(run, plan, (workflow,))
        return run

    async def stored(self, id: str = "r1") -> Run:  # noqa: A002
        run = await self.store.run(id)
        assert run is not None
        return run

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for the supervisor to make it so."""
        with anyio.fail_after(10):
            while not condition():
                await self.supervisor.changed.wait(self.supervisor.changed.version)


OpenEngine = Callable[..., AbstractAsyncContextManager[Engine]]


async def disk_is_full(*_: Change) -> None:
    raise StoreError("cannot write to the database: disk is full")


async def never_answered(*_: object, **__: object) -> None:
    await anyio.sleep_forever()
