"""Who gets the next slot: a limit for all steps, and one for each workflow.

Waiting runs take turns: every run that has queued steps gets one of them admitted, oldest request first, and then
goes to the back of the line. So a run of 10,000 steps delays another's step by one slot per turn, not by 10,000; how long
a step waits is bounded by the number of runs, whatever their size. (Oldest run first would let a few large old
runs starve all others.) Within a run the order is that of the requests, within a workflow at its limit nobody
moves, and the runs of other workflows go past it.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict

import msgspec


class SlotKey(msgspec.Struct, frozen=True):
    """A step that wants or has a slot."""

    run: str
    step: str


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """Where a queued step is: how many runs have their turn before its run, how many steps of its own run are
    before it, and which limit holds it back (empty: it would be admitted now)."""

    runs_before: int
    steps_before: int
    limit: str

    def __str__(self) -> str:
        place = f"{self.runs_before} other runs and {self.steps_before} steps of this run are before it"
        return f"{place}; {self.limit}" if self.limit else place


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
        run = line.get(key.run)
        if run is None:
            run = line[key.run] = _Run(self._next_turn())
        run.steps[key.step] = None
        if len(line) == 1 and len(run.steps) == 1:
            self._offer(workflow)

    def hold(self, key: SlotKey, workflow: str) -> None:
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
            run = line[key.run]
            del run.steps[key.step]
            if not run.steps:
                del line[key.run]
                self._offer(workflow)

    def admit(self) -> list[SlotKey]:
        """Give the free slots away; the keys have them from now on."""
        admitted = []
        while self._fronts and not self._is_full():
            turn, workflow = heapq.heappop(self._fronts)
            line = self._lines.get(workflow)
            if not line or self._is_workflow_full(workflow):
                continue
            name, run = next(iter(line.items()))
            if run.turn != turn:
                continue
            step, _ = run.steps.popitem(last=False)
            key = SlotKey(name, step)
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

    def position(self, key: SlotKey) -> Position | None:
        """For people; looks at every waiting run. None if the step is not queued."""
        workflow = self._queued.get(key)
        if workflow is None:
            return None
        own = self._lines[workflow][key.run]
        if self._is_workflow_full(workflow):
            held = self._held_by_workflow[workflow]
            limit = f"all {held} slots of workflow {workflow} are taken"
            lines = [self._lines[workflow]]
        else:
            limit = f"all {self.held} slots are taken" if self._is_full() else ""
            lines = [line for name, line in self._lines.items() if not self._is_workflow_full(name)]
        return Position(
            runs_before=sum(run.turn < own.turn for line in lines for run in line.values()),
            steps_before=list(own.steps).index(key.step),
            limit=limit,
        )

    def _next_turn(self) -> int:
        self._turn += 1
        return self._turn

    def _offer(self, workflow: str) -> None:
        """Enter the line of the workflow where it may move."""
        line = self._lines.get(workflow)
        if not line:
            self._lines.pop(workflow, None)
        elif not self._is_workflow_full(workflow):
            heapq.heappush(self._fronts, (next(iter(line.values())).turn, workflow))

    def _is_full(self) -> bool:
        return self._limit is not None and len(self._held) >= self._limit

    def _is_workflow_full(self, workflow: str) -> bool:
        limit = self._workflow_limits.get(workflow, self._workflow_limit)
        return limit is not None and self._held_by_workflow[workflow] >= limit
