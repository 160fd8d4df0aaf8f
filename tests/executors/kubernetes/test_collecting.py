from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import anyio
import pytest

from fusemld.executors.kubernetes.attempts import Attempt
from fusemld.executors.kubernetes.collecting import Collector
from fusemld.executors.kubernetes.logs import AttemptLog
from fusemld.executors.masking import needles
from fusemld.model.errors import ForbiddenError, FusemldError, InvalidInputError, NotFoundError, UnavailableError
from fusemld.model.run import AttemptKey, Ending, Outcome

NO_POD = NotFoundError('cannot get /log: pods "pod" not found')
FORBIDDEN = ForbiddenError('cannot get /log: pods "pod" is forbidden')
KEY = AttemptKey("run", "a", 1)
WELL = Outcome(ending=Ending.SUCCEEDED, exit_status=0)
PRINTED = b"2026-11-23T11:00:01.000000000Z token sesame\n"
NOT_YET = b"fusemld results 1\n"
HANDED_OVER = b"fusemld results 1\nabsent 0\nend\n"
SMALL = {"containerStatuses": [{"name": "step", "state": {"terminated": {"message": "42\n"}}}]}


class TroubledNode:
    """Of each container in turn: a log, or what goes wrong. The last word is repeated."""

    def __init__(self, **said: list[bytes | FusemldError]) -> None:
        self.said = said
        self.asked: list[str] = []

    @contextlib.asynccontextmanager
    async def logs(
        self, path: str, *, params: Mapping[str, str] | None = None, silence_s: float | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        container = (params or {})["container"]
        self.asked.append(container)
        left = self.said[container]
        word = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(word, FusemldError):
            raise word
        yield _pieces(word)


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 10):
        yield data[start : start + 10]


class Desk:
    """An attempt that has ended, and who collects what it left."""

    def __init__(self, folder: Path, node: TroubledNode, *outputs: str, patience_s: float = 60.0) -> None:
        self.notes: list[str] = []
        self.is_connected = True
        self.file = folder / "a.log"
        log = AttemptLog(node, "/log", "step", self.file, folder / "a.position", limit_bytes=1000)
        self.attempt = Attempt(KEY, "pod", log, outputs)
        self.attempt.patterns = needles([b"sesame"])
        self.attempt.pod = self.attempt.last = {
            "status": {"containerStatuses": [{"name": "step", "state": {"terminated": {"exitCode": 0}}}]}
        }
        self._collector = Collector(
            node,
            "/pods",
            outputs_patience_s=patience_s,
            log_patience_s=patience_s,
            is_connected=lambda: self.is_connected,
        )

    async def collect(self, outcome: Outcome = WELL) -> tuple[Outcome, Mapping[str, str]]:
        with anyio.fail_after(20):
            return await self._collector.collect(self.attempt, outcome, lambda _, text: self.notes.append(text))


async def test_the_end_of_the_log_is_in_the_outcome(tmp_path: Path) -> None:
    desk = Desk(tmp_path, TroubledNode(step=[PRINTED]))

    outcome, _ = await desk.collect(Outcome(ending=Ending.PROGRAM_FAILED, exit_status=3))

    assert outcome == Outcome(ending=Ending.PROGRAM_FAILED, exit_status=3, tail="token ***")
    assert desk.file.read_bytes() == b"token ***\n"


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        (UnavailableError("the node does not answer"), "the node does not answer"),
        (NO_POD, str(NO_POD)),
        (FORBIDDEN, str(FORBIDDEN)),
    ],
)
async def test_a_log_that_cannot_be_read_holds_up_nobody_for_ever(
    tmp_path: Path, trouble: FusemldError, why: str
) -> None:
    desk = Desk(tmp_path, TroubledNode(step=[trouble]), patience_s=0.1)

    outcome, _ = await desk.collect()

    assert outcome.ending is Ending.SUCCEEDED
    assert desk.file.read_text() == f"\n[fusemld: the log may not be complete: {why}]\n"


async def test_a_container_that_never_started_has_no_log(tmp_path: Path) -> None:
    desk = Desk(tmp_path, TroubledNode(step=[InvalidInputError("container step is waiting to start")]))

    await desk.collect()

    assert not desk.file.exists()


async def test_a_log_is_tried_again_where_it_broke(tmp_path: Path) -> None:
    desk = Desk(tmp_path, TroubledNode(step=[UnavailableError("broke"), PRINTED]))

    await desk.collect()

    assert desk.file.read_bytes() == b"token ***\n"


@pytest.mark.parametrize("passing", [NO_POD, FORBIDDEN])
async def test_what_an_api_server_or_kubelet_that_has_just_started_says_loses_nothing(
    tmp_path: Path, passing: FusemldError
) -> None:
    node = TroubledNode(step=[passing, PRINTED], results=[passing, passing, HANDED_OVER])
    desk = Desk(tmp_path, node, "x")

    outcome, _ = await desk.collect()

    assert outcome.ending is Ending.OUTPUT_MISSING
    assert desk.file.read_bytes() == b"token ***\n"
    assert set(desk.notes) == {f"its outputs cannot be read yet: {passing}"}


async def test_a_pod_that_the_watch_calls_gone_is_not_asked_for_again(tmp_path: Path) -> None:
    node = TroubledNode(results=[NO_POD])
    desk = Desk(tmp_path, node, "x", patience_s=600)
    desk.attempt.is_gone = True

    outcome, _ = await desk.collect()

    assert outcome.ending is Ending.LOST
    assert outcome.message == "its outputs are lost: its pod was gone before that was read"
    assert node.asked == ["results"]


async def test_outputs_are_asked_for_until_all_is_said(tmp_path: Path) -> None:
    trouble = UnavailableError("the node does not answer")
    desk = Desk(tmp_path, TroubledNode(step=[b""], results=[trouble, NOT_YET, HANDED_OVER]), "x")

    outcome, _ = await desk.collect()

    assert outcome.ending is Ending.OUTPUT_MISSING
    assert desk.notes == ["its outputs cannot be read yet: the node does not answer"]


async def test_outputs_of_a_sidecar_that_was_killed_are_lost(tmp_path: Path) -> None:
    desk = Desk(tmp_path, TroubledNode(step=[b""], results=[NOT_YET]), "x")
    assert desk.attempt.last is not None
    desk.attempt.last["status"]["initContainerStatuses"] = [{"name": "results", "state": {"terminated": {}}}]

    outcome, outputs = await desk.collect()

    assert outcome.ending is Ending.LOST
    assert outcome.message == "its outputs are lost: what was handed over ends early"
    assert outputs == {}


async def test_outputs_that_stay_out_of_reach_are_lost(tmp_path: Path) -> None:
    trouble = UnavailableError("the node does not answer")
    desk = Desk(tmp_path, TroubledNode(step=[b""], results=[trouble]), "x", patience_s=0.1)

    outcome, _ = await desk.collect()

    assert outcome.ending is Ending.LOST
    assert outcome.message == "its outputs are lost: the node does not answer"


async def test_nobody_runs_out_of_patience_while_the_api_server_is_away(tmp_path: Path) -> None:
    away = UnavailableError("no connection")
    node = TroubledNode(step=[b""], results=[away, away, away, HANDED_OVER])
    desk = Desk(tmp_path, node, "x", patience_s=0.1)
    desk.is_connected = False

    outcome, _ = await desk.collect()

    assert outcome.ending is Ending.OUTPUT_MISSING


async def test_a_small_output_comes_with_the_pod_and_nothing_else_is_asked_for(tmp_path: Path) -> None:
    node = TroubledNode(step=[PRINTED])
    desk = Desk(tmp_path, node, "x")
    desk.attempt.small_output = "x"
    desk.attempt.last = {"status": SMALL}

    outcome, outputs = await desk.collect()

    assert (outcome.ending, outputs) == (Ending.SUCCEEDED, {"x": "42"})
    assert node.asked == ["step"]


async def test_without_knowing_what_to_mask_nothing_is_shown_or_passed_on(tmp_path: Path) -> None:
    node = TroubledNode(step=[PRINTED], results=[HANDED_OVER])
    desk = Desk(tmp_path, node, "x")
    desk.attempt.patterns = None

    outcome, outputs = await desk.collect()

    assert outcome.ending is Ending.OUTPUT_REFUSED
    assert outputs == {}
    assert "step" not in node.asked
    assert desk.file.read_text() == (
        "\n[fusemld: the log cannot be shown: what must be masked in it is not known any more]\n"
    )


async def test_the_log_of_a_lost_node_is_not_waited_for(tmp_path: Path) -> None:
    desk = Desk(tmp_path, TroubledNode(step=[UnavailableError("no route")]), patience_s=600)

    outcome, _ = await desk.collect(Outcome(ending=Ending.NODE_LOST))

    assert outcome.ending is Ending.NODE_LOST
