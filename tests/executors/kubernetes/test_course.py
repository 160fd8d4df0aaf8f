"""What becomes of an attempt as time goes by, for a daemon whose clock and view of the cluster may be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import cast

import anyio
import msgspec
import pytest
from anyio.abc import TaskStatus

from fusemld.executors.kubernetes.attempts import Attempt
from fusemld.executors.kubernetes.collecting import Collector
from fusemld.executors.kubernetes.course import Course
from fusemld.executors.kubernetes.diagnosis import Patience
from fusemld.executors.kubernetes.logs import AttemptLog
from fusemld.hooks.clusters import Json
from fusemld.hooks.executors import AttemptFinished, AttemptNoted, AttemptStarted
from fusemld.model.run import AttemptKey, Ending, Outcome

POD: Json = msgspec.json.decode(Path(__file__).with_name("recorded_pods.json").read_bytes())["no_image_pull"][
    "pod"
]
CREATED = datetime.fromisoformat(POD["metadata"]["creationTimestamp"]).timestamp()
PATIENCE = Patience(image_pull_s=300)


class Log:
    """Stands in for the log of an attempt that never printed anything."""

    def close(self) -> None:
        """There is none."""


class NothingLeft:
    """Stands in for a collector: the attempt left nothing behind."""

    async def collect(self, attempt: Attempt, outcome: Outcome, note: object) -> tuple[Outcome, Mapping[str, str]]:
        return outcome, {}


class View:
    """Seconds after the pod was created, there and here; whether the API server is there."""

    def __init__(self, *, there_s: float, here_s: float | None = None, is_steady: bool = True) -> None:
        self.there_s = there_s
        self.here_s = there_s if here_s is None else here_s
        self.is_steady = is_steady

    def now(self) -> float:
        return CREATED + self.there_s


async def reported(view: View) -> AttemptStarted | AttemptNoted | AttemptFinished:
    """The first report of an attempt whose image cannot be pulled."""
    reports: list[AttemptStarted | AttemptNoted | AttemptFinished] = []
    is_reported = anyio.Event()

    def report(one: AttemptStarted | AttemptNoted | AttemptFinished) -> None:
        reports.append(one)
        is_reported.set()

    course = Course(
        view,
        cast("Collector", NothingLeft()),
        PATIENCE,
        doubt=lambda: None,
        is_steady=lambda: view.is_steady,
        clock=lambda: CREATED + view.here_s,
    )
    attempt = Attempt(AttemptKey("run", "step", 1), "pod", cast("AttemptLog", Log()), ())
    attempt.pod = attempt.last = POD
    attempt.uid = "the-pod"
    async with anyio.create_task_group() as tasks:

        async def run(*, task_status: TaskStatus[None]) -> None:
            await course.run(report, task_status=task_status)

        await tasks.start(run)
        course.look(attempt)
        with anyio.fail_after(5):
            await is_reported.wait()
        attempt.quiet()
        tasks.cancel_scope.cancel()
    return reports[0]


@pytest.mark.parametrize("here_s", [100.0, 100.0 + 3600])
async def test_until_when_it_is_waited_is_told_in_our_time(here_s: float) -> None:
    report = await reported(View(there_s=100, here_s=here_s))

    assert isinstance(report, AttemptNoted)
    until = datetime.fromtimestamp(CREATED + here_s + 200).astimezone()
    assert report.text.endswith(f"; given up at {until:%H:%M:%S} (kubernetes.image_pull_s)")


@pytest.mark.parametrize("here_s", [0.0, 301.0, 10_000.0])
async def test_the_clusters_time_ends_it_whatever_our_clock_says(here_s: float) -> None:
    report = await reported(View(there_s=301, here_s=here_s))

    assert isinstance(report, AttemptFinished)
    assert report.outcome.ending is Ending.IMAGE_UNAVAILABLE


async def test_nothing_ends_by_time_while_the_api_server_is_away() -> None:
    report = await reported(View(there_s=10_000, is_steady=False))

    assert isinstance(report, AttemptNoted)
