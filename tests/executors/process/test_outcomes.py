from __future__ import annotations

from pathlib import Path

import pytest

from fusemld.executors.process.outcomes import diagnose
from fusemld.hooks.processes import ProcessEnded
from fusemld.model.run import Ending

RESULTS = Path("/tekton/results")


def end(**more: object) -> ProcessEnded:
    return ProcessEnded(key="step/r/s/1", at=1.0, **more)  # type: ignore[arg-type] # cases name the fields


@pytest.mark.parametrize(
    ("ended", "ending", "message"),
    [
        (end(exit_status=0), Ending.SUCCEEDED, ""),
        (end(exit_status=3), Ending.PROGRAM_FAILED, "exit status 3"),
        (end(signal=11), Ending.SIGNALLED, "killed by SIGSEGV"),
        (end(signal=9), Ending.SIGNALLED, "killed by SIGKILL"),
        (end(signal=63), Ending.SIGNALLED, "killed by signal 63"),
        (end(exit_status=127, never_started="cannot execute x"), Ending.CANNOT_START, "cannot execute x"),
        (end(lost="the host went down"), Ending.LOST, "the host went down"),
        (end(signal=15, killed=True), Ending.CANCELLED, "it was told to stop and ended by SIGTERM"),
        (end(exit_status=0, killed=True), Ending.CANCELLED, "it was told to stop and ended with exit status 0"),
    ],
)
def test_every_end_has_its_cause(ended: ProcessEnded, ending: Ending, message: str) -> None:
    outcome, _ = diagnose(ended, (), RESULTS, is_sandboxed=False, is_short_of_memory=False)

    assert (outcome.ending, outcome.message) == (ending, message)


def test_a_limit_that_was_reached_is_named_where_the_step_did_not_succeed() -> None:
    failed = end(exit_status=2, reached_limit="the limit of 9 processes")

    outcome, _ = diagnose(failed, (), RESULTS, is_sandboxed=False, is_short_of_memory=False)

    assert outcome.message == "exit status 2; it had reached the limit of 9 processes"


def test_outputs_lose_their_last_newlines_and_keep_every_other_byte() -> None:
    ended = end(exit_status=0, outputs={"a": b"x\ny\n\n", "b": b"\xff\n"})

    outcome, outputs = diagnose(ended, ("a", "b"), RESULTS, is_sandboxed=False, is_short_of_memory=False)

    assert outcome.ending is Ending.SUCCEEDED
    assert outputs == {"a": "x\ny", "b": "\udcff"}


def test_a_missing_output_is_named_with_its_place() -> None:
    ended = end(exit_status=0, outputs={"a": b""})

    outcome, outputs = diagnose(ended, ("a", "b"), RESULTS, is_sandboxed=False, is_short_of_memory=False)

    assert outcome.ending is Ending.OUTPUT_MISSING
    assert outcome.message == "it ended well but did not write its output b: expected in /tekton/results/b"
    assert outputs == {}


def test_a_refused_output_is_named_with_the_reason() -> None:
    ended = end(exit_status=0, refused_outputs={"a": "it holds a secret"})

    outcome, _ = diagnose(ended, ("a",), RESULTS, is_sandboxed=False, is_short_of_memory=False)

    assert (outcome.ending, outcome.message) == (Ending.OUTPUT_REFUSED, "output a is refused: it holds a secret")


def test_a_kill_while_memory_had_run_out_says_so() -> None:
    outcome, _ = diagnose(end(signal=9), (), RESULTS, is_sandboxed=False, is_short_of_memory=True)

    assert outcome.ending is Ending.OUT_OF_MEMORY


def test_the_status_of_a_sandbox_tells_the_signal_that_ended_the_command() -> None:
    outcome, _ = diagnose(end(exit_status=139), (), RESULTS, is_sandboxed=True, is_short_of_memory=False)

    assert (outcome.ending, outcome.message) == (Ending.SIGNALLED, "killed by SIGSEGV (exit status 139)")
