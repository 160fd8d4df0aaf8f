"""Who gets the next slot: a limit for all steps, and one for each workflow.

Waiting runs take turns: every run that has queued steps gets one of them admitted, oldest request first, and then
goes to the back of the line. So a run of 10,000 steps delays another's step by one slot a turn, not by 10,000: how
long a step waits is bounded by the number of runs, whatever their size. (Oldest run first would let a few large
old runs starve all others.) Within a run the order is that of the requests. Where a workflow is at its limit its
runs wait, and those of other workflows go past them.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Set

import msgspec

SlotKey = tuple[str, str]
"""Run and step."""


class Holdup(msgspec.Struct, frozen=True, kw_only=True):
    """A limit that is reached: that of a workflow (None: of all steps), and how many slots are held under it."""

    workflow: str | None = None
    held: int
    limit: int


class _Run:
    __slots__ = ("steps", "turn")

    def __init__(self, turn: int) -> None:
        self.turn = turn
        self.steps: OrderedDict[str, None] = OrderedDict()


class Admission:
    """Bookkeeping of slots, in memory. Every operation but `position` costs at most O(log workflows).

    Limits are numbers of slots, None for no limit; `workflow_limits` go before `workflow_limit`. Limits may
    change at any time: what has a slot keeps it. Held slots may exceed a limit (after a restart with lower ones).
    """

    def __init__(
        self,
        limit: int | None = None,
        workflow_limit: int | None = None,
        workflow_limits: dict[str, int] | None = None,
    ) -> None:
        self._limit = limit
        self._workflow_limit = workflow_limit
        self._workflow_limits = dict(workflow_limits or {})
        self._held: dict[SlotKey, str] = {}
        self._held_by_workflow: Counter[str] = Counter()
        self._queued: dict[SlotKey, str] = {}
        self._lines: dict[str, OrderedDict[str, _Run]] = {}
        # (turn, workflow) of the run in front of each line that may move. An entry whose turn is not that of the
        # front any more is stale and dropped when it comes up.
        self._fronts: list[tuple[int, str]] = []
        self._turn = 0

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def queued(self) -> int:
        return len(self._queued)

    @property
    def holders(self) -> Set[SlotKey]:
        """Who has a slot."""
        return self._held.keys()

    def knows(self, key: SlotKey) -> bool:
        """Whether the step waits for a slot here or has one."""
        return key in self._queued or key in self._held

    def has_room(self) -> bool:
        """Whether `admit` would give a slot to somebody."""
        return not self._is_full() and any(
            line and not self._is_workflow_full(name) for name, line in self._lines.items()
        )

    def set_limits(
        self,
        limit: int | None = None,
        workflow_limit: int | None = None,
        workflow_limits: dict[str, int] | None = None,
    ) -> None:
        """Replace all limits; call `admit` afterwards."""
        self._limit = limit
        self._workflow_limit = workflow_limit
        self._workflow_limits = dict(workflow_limits or {})
        self._fronts = []
        for workflow in self._lines:
            self._offer(workflow)

    def request(self, key: SlotKey, workflow: str) -> None:
        """Queue the step. Nothing happens if it is queued or has a slot."""
        if key in self._queued or key in self._held:
            return
        self._queued[key] = workflow
        line = self._lines.setdefault(workflow, OrderedDict())
        run = line.get(key[0])
        if run is None:
            run = line[key[0]] = _Run(self._next_turn())
        run.steps[key[1]] = None
        if len(line) == 1 and len(run.steps) == 1:
            self._offer(workflow)

    def occupy(self, key: SlotKey, workflow: str) -> None:
        """The step has a slot from an earlier life of the daemon, whatever the limits."""
        if key in self._held:
            return
        self.release(key)
        self._held[key] = workflow
        self._held_by_workflow[workflow] += 1

    def release(self, key: SlotKey) -> None:
        """The step neither waits for a slot nor has one any more. Unknown keys are ignored."""
        workflow = self._held.pop(key, None)
        if workflow is not None:
            self._held_by_workflow[workflow] -= 1
            if not self._held_by_workflow[workflow]:
                del self._held_by_workflow[workflow]
            self._offer(workflow)
            return
        workflow = self._queued.pop(key, None)
        if workflow is not None:
            line = self._lines[workflow]
            run = line[key[0]]
            del run.steps[key[1]]
            if not run.steps:
                del line[key[0]]
                self._offer(workflow)

    def admit(self) -> list[SlotKey]:
        """Give the free slots away; the keys have them from now on."""
        admitted = []
        while self._fronts and not self._is_full():
            front = heapq.heappop(self._fronts)
            workflow = front[1]
            if not self._is_front(front) or self._is_workflow_full(workflow):
                continue
            line = self._lines[workflow]
            name, run = next(iter(line.items()))
            step, _ = run.steps.popitem(last=False)
            key = (name, step)
            del self._queued[key]
            self._held[key] = workflow
            self._held_by_workflow[workflow] += 1
            if run.steps:
                run.turn = self._next_turn()
                line.move_to_end(name)
            else:
                del line[name]
            admitted.append(key)
            self._offer(workflow)
        return admitted

    def position(self, key: SlotKey) -> int | None:
        """How many steps get a slot before it, as things are now; None if it is not queued.

        For people: looks at every waiting run, and does not foresee what the limits of workflows hold up."""
        workflow = self._queued.get(key)
        if workflow is None:
            return None
        own = self._lines[workflow][key[0]]
        turns = list(own.steps).index(key[1])
        is_held_up = self._is_workflow_full(workflow)
        place = turns
        for line in [self._lines[workflow]] if is_held_up else self._lines.values():
            place += sum(
                min(len(run.steps), turns + (run.turn < own.turn)) for run in line.values() if run is not own
            )
        return place

    def holdup(self, key: SlotKey) -> Holdup | None:
        """Which limit keeps the queued step from a slot, the workflow's first; None if it is the line alone."""
        workflow = self._queued.get(key)
        if workflow is None:
            return None
        limit, held = self._workflow_limit_of(workflow), self._held_by_workflow[workflow]
        if limit is not None and held >= limit:
            return Holdup(workflow=workflow, held=held, limit=limit)
        if self._limit is not None and len(self._held) >= self._limit:
            return Holdup(held=len(self._held), limit=self._limit)
        return None

    def _next_turn(self) -> int:
        self._turn += 1
        return self._turn

    def _offer(self, workflow: str) -> None:
        """Enter the line of the workflow where it may move."""
        line = self._lines.get(workflow)
        if not line:
            self._lines.pop(workflow, None)
        elif not self._is_workflow_full(workflow):
            if len(self._fronts) > 2 * len(self._lines) + 100:
                self._fronts = [front for front in self._fronts if self._is_front(front)]
                heapq.heapify(self._fronts)
            heapq.heappush(self._fronts, (next(iter(line.values())).turn, workflow))

    def _is_front(self, front: tuple[int, str]) -> bool:
        turn, workflow = front
        line = self._lines.get(workflow)
        return line is not None and next(iter(line.values())).turn == turn

    def _is_full(self) -> bool:
        return self._limit is not None and len(self._held) >= self._limit

    def _is_workflow_full(self, workflow: str) -> bool:
        limit = self._workflow_limit_of(workflow)
        return limit is not None and self._held_by_workflow[workflow] >= limit

    def _workflow_limit_of(self, workflow: str) -> int | None:
        return self._workflow_limits.get(workflow, self._workflow_limit)
