"""Plugin steps, from their launch to what is recorded of them."""

from __future__ import annotations

from collections.abc import Mapping

import anyio
import pytest
from structlog.testing import capture_logs

from fusemld.daemon import patience
from fusemld.engine.events import CancelRequested
from fusemld.executors.masking import HOLDS_CREDENTIAL
from fusemld.hooks.steps import StepContext
from fusemld.model.errors import StartError, UnavailableError
from fusemld.model.run import AttemptKey, Ending, Outcome, Run, RunState, StepState
from tests.daemon.room import SECRET, OpenRoom, Room, ScriptedStep
from tests.daemon.running import document_of

ONE = AttemptKey("r1", "one", 1)
STEERED = document_of("""
name: steered
inputs: [{name: code, type: codeset}]
steps:
  - name: one
    image: steered:1.2
    inputs:
      - {name: x, value: "7"}
      - {name: old, value: "gone"}
      - {name: code, codeset: {name: "{{ inputs.code }}", path: /project}}
    outputs: [{name: url}]
    extensions: [{name: v, product: vault}]
""")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_S", 0.001)
    monkeypatch.setattr(patience, "LONGEST_S", 0.001)


async def create(room: Room) -> None:
    room.codeset("digits", train="one")
    await room.engine.create(STEERED, code="lab/digits")


def outcome_of(run: Run) -> Outcome:
    outcome = run.steps["one"].attempts[-1].outcome
    assert outcome is not None
    return outcome


def log_of(room: Room) -> str:
    return room.performer.log_path(ONE).read_text()


async def test_a_plugin_step_sees_what_its_document_gave_it_and_its_outputs_are_recorded(room: OpenRoom) -> None:
    seen: list[StepContext] = []

    async def script(context: StepContext) -> Mapping[str, str]:
        seen.append(context)
        context.log("working")
        return {"url": "http://x", "more": "is not declared"}

    async with room(ScriptedStep(script)) as running:
        await create(running)
        run = await running.over()

        context = seen[0]
        assert run.state is RunState.SUCCEEDED
        assert run.steps["one"].outputs == {"url": "http://x"}
        assert run.steps["one"].warnings == ("input 'old' is ignored: nobody needs it",)
        assert (context.key, context.workflow, context.project) == (ONE, "steered", "default")
        assert context.inputs == {"x": "7", "old": "gone", "code": "lab/digits"}
        assert context.codesets["code"].name == "digits"
        assert context.extensions["v"].configuration["TOKEN"] == SECRET
        assert running.executor.launches == []
        assert log_of(running) == "working\n"


async def test_what_is_unavailable_is_tried_again_and_says_so(room: OpenRoom) -> None:
    tries: list[str] = []

    async def script(context: StepContext) -> Mapping[str, str]:
        tries.append(running.performer.activity.get(ONE, ""))
        if len(tries) < 3:
            raise UnavailableError(f"cannot reach the server with {SECRET}")
        return {"url": "http://x"}

    async with room(ScriptedStep(script)) as running:
        await create(running)
        run = await running.over()

        assert run.state is RunState.SUCCEEDED
        assert len(tries) == 3
        assert all(line.startswith("cannot reach the server with ***; trying again at ") for line in tries[1:])
        assert log_of(running).splitlines() == tries[1:]
        assert running.performer.activity == {}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (StartError(f"cannot serve {SECRET}"), "cannot serve ***"),
        (KeyError(SECRET), "the plugin failed: KeyError: '***'"),
    ],
)
async def test_a_failure_is_told_with_its_last_lines_and_without_secrets(
    room: OpenRoom, error: Exception, message: str
) -> None:
    async def script(context: StepContext) -> Mapping[str, str]:
        context.log(f"using {SECRET}")
        raise error

    async with room(ScriptedStep(script)) as running:
        with capture_logs() as logs:
            await create(running)
            run = await running.over()

        assert outcome_of(run) == Outcome(ending=Ending.PROGRAM_FAILED, message=message, tail="using ***")
        assert log_of(running).splitlines() == ["using ***", message]
        assert SECRET not in str(logs)


@pytest.mark.parametrize(
    ("outputs", "ending", "message"),
    [
        ({}, Ending.OUTPUT_MISSING, "the plugin did not give the output url"),
        (
            {"url": f"http://ann:{SECRET}@x"},
            Ending.OUTPUT_REFUSED,
            f"output url is refused: {HOLDS_CREDENTIAL}",
        ),
    ],
)
async def test_outputs_that_cannot_be_recorded_fail_the_step(
    room: OpenRoom, outputs: dict[str, str], ending: Ending, message: str
) -> None:
    async def script(context: StepContext) -> Mapping[str, str]:
        return outputs

    async with room(ScriptedStep(script)) as running:
        await create(running)
        run = await running.over()

        assert (outcome_of(run).ending, outcome_of(run).message) == (ending, message)
        assert run.steps["one"].outputs == {}


async def test_a_plugin_step_is_cancelled_in_the_middle_and_cleans_up(room: OpenRoom) -> None:
    killed: list[bool] = []

    async def script(context: StepContext) -> Mapping[str, str]:
        try:
            await anyio.sleep_forever()
        finally:
            killed.append(context.is_killed)
        raise AssertionError

    async with room(ScriptedStep(script)) as running:
        await create(running)
        await running.step("one", lambda step: step.state is StepState.RUNNING)

        await running.supervisor.request("r1", CancelRequested(at=1003.0))
        run = await running.over()

        assert killed == [True]
        assert run.state is RunState.CANCELLED
        assert outcome_of(run).ending is Ending.CANCELLED
        assert running.executor.kills == [], "it was never with an executor"


async def test_a_plugin_step_is_run_again_by_the_next_daemon_at_the_same_attempt(room: OpenRoom) -> None:
    attempts: list[int] = []
    killed: list[bool] = []

    async def forever(context: StepContext) -> Mapping[str, str]:
        try:
            await anyio.sleep_forever()
        finally:
            killed.append(context.is_killed)
        raise AssertionError

    async def done(context: StepContext) -> Mapping[str, str]:
        attempts.append(context.key.attempt)
        return {"url": "http://x"}

    async with room(ScriptedStep(forever)) as first:
        await create(first)
        await first.step("one", lambda step: step.state is StepState.RUNNING)

    async with room(ScriptedStep(done)) as second:
        run = await second.over()

        assert killed == [False]
        assert attempts == [1]
        assert run.state is RunState.SUCCEEDED
        assert len(run.steps["one"].attempts) == 1


async def test_a_log_that_cannot_be_written_fails_nothing(room: OpenRoom) -> None:
    async def script(context: StepContext) -> Mapping[str, str]:
        context.note("working")
        return {"url": "http://x"}

    async with room(ScriptedStep(script)) as running:
        (running.state / "logs").mkdir()
        (running.state / "logs" / "r1").touch()
        await create(running)
        run = await running.over()

        assert run.state is RunState.SUCCEEDED


async def test_an_input_that_the_plugin_does_not_know_is_a_clear_error(room: OpenRoom) -> None:
    document = document_of(
        "name: w\nsteps: [{name: one, image: steered, inputs: [{name: olt, value: 1}], outputs: [{name: url}]}]"
    )

    async def script(context: StepContext) -> Mapping[str, str]:
        raise AssertionError

    async with room(ScriptedStep(script)) as running:
        await running.engine.create(document)
        run = await running.over()

        assert "step 'one' does not know the input 'olt': did you mean 'old'?" in run.message


async def test_who_is_over_is_not_shown_as_working_any_more(room: OpenRoom) -> None:
    """Whatever a plugin has started may go on talking."""
    contexts: list[StepContext] = []

    async def script(context: StepContext) -> Mapping[str, str]:
        contexts.append(context)
        return {"url": "http://x"}

    async with room(ScriptedStep(script)) as running:
        await create(running)
        await running.over()

        contexts[0].note("still building")

        assert running.performer.activity == {}
