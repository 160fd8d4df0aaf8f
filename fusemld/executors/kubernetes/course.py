"""The course of attempts: from what is seen of their pods to what is reported of them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol

import anyio
import structlog
from anyio.abc import TaskGroup, TaskStatus
from msgspec.structs import replace

from fusemld.executors.kubernetes.attempts import Attempt
from fusemld.executors.kubernetes.collecting import Collector
from fusemld.executors.kubernetes.diagnosis import Patience, Phase, diagnose
from fusemld.executors.masking import masked
from fusemld.hooks.executors import AttemptFinished, AttemptNoted, AttemptStarted, Report
from fusemld.model import faults
from fusemld.model.run import Ending, Outcome

_log: structlog.stdlib.BoundLogger = structlog.get_logger()

_FOLLOW_AFTER_S = 1.5
"""A step that runs longer has its log followed; the log of a shorter one is read once, at its end. Kubelet often
tells of an end only a second after it."""
_UNSTEADY_LOOK_S = 2.0
_LONGEST_SLEEP_S = 60.0
"""The wall clock may jump: no look is put off for longer."""


class Cluster(Protocol):
    def now(self) -> float:
        """What time it is there: pods and events carry its times."""


class Course:
    """`doubt` is called where a pod was not set up. `is_steady` says whether what is seen is how things are: while
    the API server is away, time alone ends nothing."""

    def __init__(
        self,
        cluster: Cluster,
        collector: Collector,
        patience: Patience,
        *,
        doubt: Callable[[], None],
        is_steady: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._cluster = cluster
        self._collector = collector
        self._patience = patience
        self._doubt = doubt
        self._is_steady = is_steady
        self._clock = clock
        self._report: Report | None = None
        self._tasks: TaskGroup | None = None

    async def run(self, report: Report, *, task_status: TaskStatus[None]) -> None:
        """Serve until cancelled."""
        self._report = report
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            task_status.started()
            await anyio.sleep_forever()

    def look(self, attempt: Attempt) -> None:
        """Judge the attempt by what is known of it now, and again when time alone may change that. One that cannot
        be judged stops no other."""
        try:
            self._judge(attempt)
        except Exception:  # noqa: BLE001
            _log.exception("pod.not_judged", key=str(attempt.key))

    def end(self, attempt: Attempt, ending: Ending, words: str) -> None:
        """It is over, whatever can be seen of it."""
        self._end(attempt, Outcome(ending=ending, message=words))

    def _judge(self, attempt: Attempt) -> None:
        if attempt.alarm is not None:
            attempt.alarm.cancel()
            attempt.alarm = None
        if attempt.is_over or (attempt.pod is None and not attempt.is_gone):
            return
        now = self._cluster.now()
        is_steady = self._is_steady()
        seen = diagnose(
            attempt.pod,
            attempt.last,
            attempt.warnings,
            now if is_steady else -math.inf,
            self._patience,
            stopping=attempt.is_stopping,
        )
        if seen.started_at is not None and not attempt.is_started:
            attempt.is_started = True
            attempt.note = ""
            self._tell(AttemptStarted(key=attempt.key, at=self._clock()))
            faults.point("kubernetes.started")
        if seen.outcome is not None:
            self._end(attempt, seen.outcome)
            return
        note, wait_s = seen.note, math.inf
        if seen.check_again_at is not None:
            left_s = seen.check_again_at - now
            wait_s = min(max(left_s, 0.0 if is_steady else _UNSTEADY_LOOK_S), _LONGEST_SLEEP_S)
            if seen.setting:
                at = datetime.fromtimestamp(self._clock() + left_s).astimezone()
                note += f"; given up at {at:%H:%M:%S} ({seen.setting})"
        self._note(attempt, note)
        if seen.phase is Phase.RUNNING and attempt.follower is None and attempt.patterns is not None:
            wait_s = min(wait_s, self._follow_when_due(attempt, now))
        if wait_s < math.inf:
            attempt.alarm = asyncio.get_running_loop().call_later(wait_s, self.look, attempt)

    def _follow_when_due(self, attempt: Attempt, now: float) -> float:
        """Seconds until the log is to be followed; infinite where it is from now on."""
        if attempt.seen_running_at is None:
            attempt.seen_running_at = now
        left_s = attempt.seen_running_at + _FOLLOW_AFTER_S - now
        if left_s > 0:
            return min(left_s, _FOLLOW_AFTER_S)
        attempt.follower = anyio.CancelScope()
        self._tasks_now.start_soon(self._follow, attempt, attempt.follower, name=f"follow {attempt.key}")
        return math.inf

    async def _follow(self, attempt: Attempt, scope: anyio.CancelScope) -> None:
        with scope:
            attempt.log.open(attempt.patterns or (), resumed=attempt.is_adopted)
            await attempt.log.follow()

    def _end(self, attempt: Attempt, outcome: Outcome) -> None:
        attempt.is_ending = True
        attempt.quiet()
        if not attempt.is_started:
            self._doubt()
        if attempt.last is None:
            self._finish(attempt, outcome, {})
        else:
            self._tasks_now.start_soon(self._collect, attempt, outcome, name=f"end of {attempt.key}")

    async def _collect(self, attempt: Attempt, outcome: Outcome) -> None:
        outputs: Mapping[str, str] = {}
        try:
            with attempt.collecting as scope:
                outcome, outputs = await self._collector.collect(attempt, outcome, self._note)
            if scope.cancelled_caught:
                words = "it was told to stop while its log and outputs were being read"
                outcome = Outcome(ending=Ending.CANCELLED, message=words)
        except Exception:  # noqa: BLE001
            _log.exception("pod.not_collected", key=str(attempt.key))
            if outcome.ending is Ending.SUCCEEDED:
                outcome = Outcome(ending=Ending.LOST, message="what it left behind could not be read")
        attempt.log.close()
        faults.point("kubernetes.collected")
        self._finish(attempt, outcome, outputs)

    def _finish(self, attempt: Attempt, outcome: Outcome, outputs: Mapping[str, str]) -> None:
        attempt.is_reported = True
        message = masked(outcome.message, attempt.patterns or ())
        if message != outcome.message:
            outcome = replace(outcome, message=message)
        self._tell(AttemptFinished(key=attempt.key, at=self._clock(), outcome=outcome, outputs=outputs))

    def _note(self, attempt: Attempt, text: str) -> None:
        if text != attempt.note:
            attempt.note = text
            self._tell(AttemptNoted(key=attempt.key, text=masked(text, attempt.patterns or ())))

    def _tell(self, report: AttemptStarted | AttemptNoted | AttemptFinished) -> None:
        assert self._report is not None, "nothing is seen before `run`"
        self._report(report)

    @property
    def _tasks_now(self) -> TaskGroup:
        assert self._tasks is not None, "nothing is seen before `run`"
        return self._tasks
