"""Lists of events, and what each makes of a run."""

from __future__ import annotations

from collections.abc import Sequence

import immutables
import pytest
from msgspec.structs import replace

from fusemld.engine import advance as advancing
from fusemld.engine.advance import advance
from fusemld.engine.begin import deadlines, new_run, resume
from fusemld.engine.effects import (
    AnyEffect,
    FinishRun,
    KillStep,
    LaunchStep,
    PinCodesets,
    ReleaseSlot,
    RequestSlot,
)
from fusemld.engine.events import (
    AnyEvent,
    CancelRequested,
    ClockMoved,
    CodesetsPinned,
    CodesetsUnavailable,
    DeadlinePassed,
    RetryRequested,
    RunCreated,
    StepAdmitted,
    StepFinished,
    StepStarted,
)
from fusemld.engine.plan import Defaults, Plan, make_plan
from fusemld.model.codeset import PinnedCodeset
from fusemld.model.errors import ConflictError, ImpossibleTransitionError
from fusemld.model.run import Ending, Outcome, Run, RunState, StepState
from fusemld.model.template import Reference, Template, literal
from fusemld.model.workflow import (
    CodesetMount,
    Retry,
    Step,
    StepInput,
    StepOutput,
    Workflow,
    WorkflowOutput,
)

DEFAULTS = Defaults(timeout_s=100.0, queue_timeout_s=1000.0, pin_timeout_s=50.0, max_losses=2, kill_repeat_s=30.0)
SUCCEEDED = Outcome(ending=Ending.SUCCEEDED, exit_status=0)
FAILED = Outcome(ending=Ending.PROGRAM_FAILED, exit_status=3, message="exit status 3", tail="oh no")
LOST = Outcome(ending=Ending.LOST, message="the host went down")
PIN = PinnedCodeset(project="default", name="code", version="abc", url="file:///code", digest="d")


def step(
    name: str,
    *needs: str,
    retry: Retry | None = None,
    outputs: Sequence[str] = (),
    codeset: Template | None = None,
) -> Step:
    """Waits for `needs` only."""
    inputs = () if codeset is None else (StepInput(name="c", codeset=CodesetMount(name=codeset, path="/project")),)
    return Step(
        name=name,
        image=literal("image"),
        needs=needs,
        retry=retry,
        inputs=inputs,
        outputs=tuple(StepOutput(name=output) for output in outputs),
    )


def plan_of(*steps: Step, outputs: Sequence[WorkflowOutput] = ()) -> Plan:
    return make_plan(Workflow(name="w", steps=steps, outputs=tuple(outputs)), "digest", DEFAULTS)


class Story:
    """A run, and what the events have asked for so far."""

    def __init__(self, plan: Plan, *events: AnyEvent) -> None:
        self.plan = plan
        self.run: Run = new_run(plan, id="r", created_at=1.0, inputs={})
        self.effects: tuple[AnyEffect, ...] = ()
        self.changed: tuple[str, ...] = ()
        self.then(RunCreated(at=1.0), *events)

    def then(self, *events: AnyEvent) -> Story:
        """Apply them; `effects` are those of the last one."""
        for event in events:
            advanced = advance(self.run, event, self.plan)
            self.run, self.effects, self.changed = advanced.run, advanced.effects, advanced.changed
        return self

    def states(self) -> dict[str, StepState]:
        return {name: self.run.steps[name].state for name in self.plan.dag.names}


def admitted(name: str, at: float = 2.0) -> StepAdmitted:
    return StepAdmitted(at=at, step=name)


def started(name: str, attempt: int = 1, at: float = 3.0) -> StepStarted:
    return StepStarted(at=at, step=name, attempt=attempt)


def finished(
    name: str, outcome: Outcome = SUCCEEDED, attempt: int = 1, at: float = 4.0, **outputs: str
) -> StepFinished:
    return StepFinished(at=at, step=name, attempt=attempt, outcome=outcome, outputs=outputs)


def passed(name: str, at: float) -> DeadlinePassed:
    return DeadlinePassed(at=at, step=name)


def test_a_run_without_codesets_queues_its_ready_steps_in_listed_order() -> None:
    story = Story(plan_of(step("a"), step("b"), step("c", "a", "b")))

    assert story.effects == (RequestSlot(step="a"), RequestSlot(step="b"))
    assert story.changed == ("a", "b")
    assert story.run.steps["c"].reason == "waiting for a, b"
    assert story.run.steps["a"].deadline == 1001.0


def test_codesets_are_pinned_before_anything_starts() -> None:
    plan = plan_of(step("a", codeset=literal("code")), step("b"))
    story = Story(plan)
    assert story.effects == (PinCodesets(),)
    assert story.run.steps["b"].reason == "waiting for the run's codesets"

    story = story.then(CodesetsPinned(at=2.0, codesets={"code": PIN}))

    assert story.effects == (RequestSlot(step="a"), RequestSlot(step="b"))
    assert story.run.codesets == {"code": PIN}


def test_codesets_are_pinned_once() -> None:
    story = Story(plan_of(step("a", codeset=literal("code"))))
    other = replace(PIN, version="other")

    story.then(CodesetsPinned(at=2.0, codesets={"code": PIN}), CodesetsPinned(at=3.0, codesets={"code": other}))

    assert story.run.codesets == {"code": PIN}


def test_pinning_without_what_is_mounted_is_impossible() -> None:
    story = Story(plan_of(step("a", codeset=literal("code"))))

    with pytest.raises(ImpossibleTransitionError, match="pinned without 'code'"):
        story.then(CodesetsPinned(at=2.0, codesets={}))


def test_a_missing_codeset_fails_the_run_with_its_message() -> None:
    story = Story(plan_of(step("a", codeset=literal("code")), step("b", "a")))

    story.then(CodesetsUnavailable(at=2.0, message="no codeset default/code"))

    assert (story.run.state, story.run.message) == (RunState.FAILED, "no codeset default/code")
    assert set(story.states().values()) == {StepState.SKIPPED}
    assert story.effects == (FinishRun(),)


def test_codesets_that_are_not_there_in_time_fail_the_run() -> None:
    story = Story(plan_of(step("a", codeset=literal("code"))))

    story.then(passed("a", at=51.0))

    assert story.run.state is RunState.FAILED
    assert story.run.message == "the run's codesets were not there after 50s"


@pytest.mark.parametrize("by_s", [3 * 86400.0, -3 * 86400.0])
def test_a_clock_that_was_set_leaves_every_step_the_time_it_had(by_s: float) -> None:
    story = Story(plan_of(step("a"), step("b"), step("c", "a")), admitted("a"), started("a", at=3.0))
    before = story.run.steps

    story.then(ClockMoved(at=20.0 + by_s, by_s=by_s))

    after = story.run.steps
    for name in ("a", "b"):
        assert after[name].deadline == (before[name].deadline or 0.0) + by_s
        assert after[name].since == before[name].since + by_s
    assert after["c"] == before["c"]
    assert (sorted(story.changed), story.effects) == (["a", "b"], ())


def test_what_seems_to_have_begun_in_the_future_has_its_whole_time_from_now_on() -> None:
    story = Story(plan_of(step("a")), admitted("a", at=5000.0))
    timeout_s = (story.run.steps["a"].deadline or 0.0) - 5000.0

    story.then(ClockMoved(at=10.0, by_s=0.0))
    once = story.run.steps["a"]
    story.then(ClockMoved(at=10.0, by_s=0.0))

    assert (once.since, once.deadline) == (10.0, 10.0 + timeout_s)
    assert story.run.steps["a"] == once


def test_an_admitted_step_is_launched_with_a_deadline_and_a_reason() -> None:
    story = Story(plan_of(step("a")), admitted("a"))

    attempt = story.run.steps["a"].attempts[-1]
    assert story.effects == (LaunchStep(step="a", attempt=1),)
    assert (attempt.number, attempt.reason, attempt.launched_at) == (1, "first", 2.0)
    assert (story.run.steps["a"].state, story.run.steps["a"].deadline) == (StepState.STARTING, 102.0)


def test_a_steps_success_stores_its_declared_outputs_and_unblocks_its_dependents() -> None:
    story = Story(plan_of(step("a", outputs=["o"]), step("b", "a")), admitted("a"), started("a"))

    story.then(finished("a", o="value", extra="dropped"))

    assert story.run.steps["a"].outputs == {"o": "value"}
    assert story.effects == (ReleaseSlot(step="a"), RequestSlot(step="b"))
    assert story.changed == ("a", "b")
    assert story.run.unfinished == 1


def test_where_outputs_are_is_known_as_long_as_they_count() -> None:
    story = Story(plan_of(step("a", outputs=["o"]), step("b", outputs=["o"])))
    for end in (finished("a", o="value"), finished("b")):
        story.then(admitted(end.step), started(end.step), replace(end, outputs_file="0123"))

    assert story.run.steps["a"].outputs_file == "0123"
    assert story.run.steps["b"].outputs_file == ""


def test_the_long_outputs_of_a_run_have_a_limit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advancing, "RUN_BYTES", 100_000)
    story = Story(plan_of(*(step(name, outputs=["o"]) for name in ("a", "b", "c", "d"))))
    for name, value in (("a", "x" * 40_000), ("b", "x" * 40_000), ("c", "x" * 40_000), ("d", "x" * 30_000)):
        story.then(admitted(name), started(name), finished(name, o=value))

    assert {name for name, state in story.states().items() if state is StepState.SUCCEEDED} == {"a", "b", "d"}
    outcome = story.run.steps["c"].attempts[0].outcome
    assert outcome is not None
    assert outcome.ending is Ending.OUTPUT_REFUSED
    assert outcome.message == (
        "with its outputs, those of the run need more than the 100,000 bytes of memory that they may have together"
    )
    assert story.run.steps["c"].outputs == {}


@pytest.mark.parametrize("retried", [False, True])
def test_a_name_of_a_codeset_that_is_too_long_ends_the_run_before_its_first_step(retried: bool) -> None:
    story = Story(plan_of(step("a", codeset=Template((Reference(("workflow", "name")),) * 5000)), step("b", "a")))
    if retried:
        story.then(RetryRequested(at=9.0))

    assert story.run.state is RunState.FAILED
    assert story.run.message.startswith("cannot render {{ workflow.name }}: with it, the values have more than")
    assert set(story.states().values()) == {StepState.SKIPPED}


def test_success_without_a_declared_output_is_a_failure_that_names_it() -> None:
    story = Story(plan_of(step("a", outputs=["o", "p"])), admitted("a"))

    story.then(finished("a", o="value"))

    assert story.run.message == "step a failed: output missing: output 'p' was not written"


def test_the_run_succeeds_with_outputs_of_the_last_listed_step_and_of_expressions() -> None:
    outputs = [
        WorkflowOutput(name="o"),
        WorkflowOutput(
            name="both",
            value=Template((Reference(("steps", "a", "outputs", "o")), "+", Reference(("run", "id")))),
        ),
    ]
    plan = plan_of(step("a", outputs=["o"]), step("b", "a", outputs=["o"]), outputs=outputs)
    story = Story(plan, admitted("a"), finished("a", o="first {{ run.id }}"), admitted("b"))

    story.then(finished("b", o="second", at=9.0))

    assert (story.run.state, story.run.finished_at) == (RunState.SUCCEEDED, 9.0)
    assert story.run.outputs == {"o": "second", "both": "first {{ run.id }}+r"}
    assert story.effects[-1] == FinishRun()


def test_a_failure_skips_what_needs_it_and_lets_the_rest_go_on() -> None:
    plan = plan_of(step("a"), step("b", "a"), step("c", "b"), step("other"))
    story = Story(plan, admitted("a"), finished("a", FAILED))

    assert story.states() == {
        "a": StepState.FAILED,
        "b": StepState.SKIPPED,
        "c": StepState.SKIPPED,
        "other": StepState.QUEUED,
    }
    assert story.run.steps["c"].reason == "needs b, which was skipped"
    assert (story.run.state, story.run.message) == (
        RunState.RUNNING,
        "step a failed: program failed: exit status 3",
    )

    story.then(admitted("other"), finished("other"))

    assert story.run.state is RunState.FAILED
    assert story.run.message == "step a failed: program failed: exit status 3"


def test_retry_backs_off_exponentially_up_to_its_maximum_then_fails() -> None:
    plan = plan_of(step("a", retry=Retry(limit=3, backoff_s=10.0, max_backoff_s=15.0)))
    story = Story(plan)
    delays = []
    for attempt in (1, 2, 3):
        story.then(admitted("a", at=100.0 * attempt), finished("a", FAILED, attempt, at=100.0 * attempt + 1))
        current = story.run.steps["a"]
        assert (current.state, current.deadline) != (StepState.BACKOFF, None)
        delays.append((current.deadline or 0.0) - current.since)
        story.then(passed("a", at=current.deadline or 0.0))
        assert story.effects == (RequestSlot(step="a"),)

    story.then(admitted("a", at=500.0), finished("a", FAILED, 4, at=501.0))

    assert delays == [10.0, 15.0, 15.0]
    assert story.run.state is RunState.FAILED
    assert [attempt.reason for attempt in story.run.steps["a"].attempts] == [
        "first",
        "retry 1 of 3; before: program failed: exit status 3",
        "retry 2 of 3; before: program failed: exit status 3",
        "retry 3 of 3; before: program failed: exit status 3",
    ]


def test_what_a_step_in_backoff_waits_for_says_no_time_because_that_goes_by() -> None:
    story = Story(plan_of(step("a", retry=Retry(limit=1, backoff_s=600.0))))

    story.then(admitted("a", at=2.0), finished("a", FAILED, at=3.0))

    waiting = story.run.steps["a"]
    assert (waiting.state, waiting.deadline) == (StepState.BACKOFF, 603.0)
    assert waiting.reason == "attempt 2 follows, after: program failed: exit status 3"


def test_a_lost_attempt_is_repeated_within_a_bound_without_using_up_retry() -> None:
    story = Story(plan_of(step("a", retry=Retry(limit=1, backoff_s=7.0))))
    for attempt in (1, 2):
        story.then(admitted("a"), finished("a", LOST, attempt))
        story.then(passed("a", at=story.run.steps["a"].deadline or 0.0))
    assert (story.run.steps["a"].losses, story.run.steps["a"].retries_used) == (2, 0)
    assert story.run.steps["a"].attempts[-1].reason == "lost: the host went down"

    story.then(admitted("a"), finished("a", LOST, 3))

    assert story.run.steps["a"].state is StepState.BACKOFF
    assert story.run.steps["a"].retries_used == 1


def test_losses_beyond_the_bound_fail_a_step_without_retry() -> None:
    story = Story(plan_of(step("a")))
    for attempt in (1, 2, 3):
        story.then(admitted("a"), finished("a", LOST, attempt))
        story.then(passed("a", at=story.run.steps["a"].deadline or 0.0))

    assert story.run.message == "step a failed: lost: the host went down"


def test_a_timed_out_attempt_is_stopped_and_counts_for_retry() -> None:
    story = Story(plan_of(step("a", retry=Retry(limit=1))), admitted("a"), started("a"))

    story.then(passed("a", at=102.0))
    assert story.effects == (KillStep(step="a", attempt=1, ending=Ending.TIMED_OUT),)
    assert story.run.steps["a"].reason == "timed out after 100s; stopping"
    assert story.run.steps["a"].deadline == 132.0

    story.then(finished("a", Outcome(ending=Ending.SIGNALLED, message="SIGTERM"), at=103.0))
    assert story.run.steps["a"].state is StepState.BACKOFF
    outcome = story.run.steps["a"].attempts[-1].outcome
    assert outcome is not None
    assert (outcome.ending, outcome.message) == (Ending.TIMED_OUT, "not over after 100s")


def test_an_attempt_that_does_not_stop_is_told_again() -> None:
    story = Story(plan_of(step("a")), admitted("a"), passed("a", at=102.0), started("a", at=103.0))

    story.then(passed("a", at=132.0))

    assert story.effects == (KillStep(step="a", attempt=1, ending=Ending.TIMED_OUT),)
    assert (story.run.steps["a"].since, story.run.steps["a"].deadline) == (102.0, 162.0)


def test_an_attempt_that_succeeds_before_it_is_stopped_has_succeeded() -> None:
    story = Story(plan_of(step("a")), admitted("a"), passed("a", at=102.0), finished("a", at=103.0))

    assert story.run.state is RunState.SUCCEEDED


def test_a_step_that_gets_no_slot_in_time_fails() -> None:
    story = Story(plan_of(step("a"), step("b", "a")))

    story.then(passed("a", at=1001.0))

    assert story.effects == (ReleaseSlot(step="a"), FinishRun())
    assert story.run.message == "step a failed: no slot was free for 1000s"


def test_a_deadline_that_came_early_asks_for_a_new_timer_only() -> None:
    story = Story(plan_of(step("a")), admitted("a"))
    before = story.run

    story.then(passed("a", at=101.9))

    assert story.run is before
    assert story.changed == ("a",)
    assert story.effects == ()


def test_cancel_ends_what_has_not_started_and_stops_what_has() -> None:
    plan = plan_of(step("active"), step("queued"), step("waiting", "active"), step("lost"))
    story = Story(plan, admitted("active"), admitted("lost"), finished("lost", LOST))

    story.then(CancelRequested(at=5.0, by="ann"))

    assert story.states() == {
        "active": StepState.STARTING,
        "queued": StepState.CANCELLED,
        "waiting": StepState.CANCELLED,
        "lost": StepState.CANCELLED,
    }
    assert story.effects == (
        KillStep(step="active", attempt=1, ending=Ending.CANCELLED),
        ReleaseSlot(step="queued"),
    )
    assert story.run.steps["active"].reason == "cancelled by ann; stopping"

    story.then(finished("active", FAILED))

    assert (story.run.state, story.run.message) == (RunState.CANCELLED, "cancelled by ann")
    assert story.run.steps["active"].state is StepState.CANCELLED


def test_a_run_whose_last_step_succeeds_in_spite_of_the_cancel_has_succeeded() -> None:
    story = Story(plan_of(step("a")), admitted("a"), CancelRequested(at=3.0), finished("a"))

    assert story.run.state is RunState.SUCCEEDED


def test_cancel_overrides_a_timeout_so_that_nothing_is_retried() -> None:
    plan = plan_of(step("a", retry=Retry(limit=5)))
    story = Story(plan, admitted("a"), passed("a", at=102.0), CancelRequested(at=103.0))

    story.then(finished("a", FAILED, at=104.0))

    assert story.run.state is RunState.CANCELLED


def test_a_step_that_is_told_to_stop_and_ends_well_without_its_outputs_was_cancelled() -> None:
    once_more = step("a", retry=Retry(limit=3), outputs=("o",))
    story = Story(plan_of(once_more), admitted("a"), started("a"), CancelRequested(at=3.5), finished("a"))

    assert story.states() == {"a": StepState.CANCELLED}
    assert story.run.state is RunState.CANCELLED


def test_a_step_that_timed_out_and_ends_well_without_its_outputs_has_timed_out() -> None:
    story = Story(
        plan_of(step("a", outputs=("o",))), admitted("a"), started("a"), passed("a", 102.0), finished("a")
    )

    outcome = story.run.steps["a"].attempts[0].outcome
    assert outcome is not None
    assert (outcome.ending, outcome.message) == (Ending.TIMED_OUT, "not over after 100s")


def test_cancel_while_codesets_are_pinned_ends_the_run() -> None:
    story = Story(plan_of(step("a", codeset=literal("code"))), CancelRequested(at=2.0))

    assert story.run.state is RunState.CANCELLED

    story.then(CodesetsPinned(at=3.0, codesets={"code": PIN}))

    assert story.effects == ()
    assert story.run.codesets is None


def test_retry_goes_on_from_what_failed_and_keeps_what_succeeded() -> None:
    plan = plan_of(step("a", outputs=["o"]), step("b", "a"), step("c", "b"))
    story = Story(plan, admitted("a"), finished("a", o="kept"), admitted("b"), finished("b", FAILED))
    assert story.run.state is RunState.FAILED

    story.then(RetryRequested(at=10.0, by="ann"))

    assert story.effects == (RequestSlot(step="b"),)
    assert story.states() == {"a": StepState.SUCCEEDED, "b": StepState.QUEUED, "c": StepState.WAITING}
    assert (story.run.state, story.run.finished_at, story.run.message) == (RunState.RUNNING, None, "")

    story.then(admitted("b", at=11.0))

    attempt = story.run.steps["b"].attempts[-1]
    assert (attempt.number, attempt.reason) == (2, "retry requested; before: program failed: exit status 3")

    story = story.then(finished("b", attempt=2), admitted("c"), finished("c"))

    assert story.run.state is RunState.SUCCEEDED
    assert story.run.steps["a"].outputs == {"o": "kept"}


def test_retry_after_missing_codesets_pins_them_again() -> None:
    story = Story(plan_of(step("a", codeset=literal("code"))), CodesetsUnavailable(at=2.0, message="gone"))

    story.then(RetryRequested(at=3.0))

    assert story.effects == (PinCodesets(),)
    assert story.run.steps["a"].deadline == 53.0


@pytest.mark.parametrize("events", [(), (admitted("a"), finished("a"))], ids=["running", "succeeded"])
def test_only_failed_and_cancelled_runs_can_be_retried(events: Sequence[AnyEvent]) -> None:
    story = Story(plan_of(step("a")), *events)

    with pytest.raises(ConflictError, match="cannot retry run r"):
        story.then(RetryRequested(at=9.0))


@pytest.mark.parametrize(
    "late",
    [
        RunCreated(at=9.0),
        CodesetsUnavailable(at=9.0, message="too late"),
        admitted("a"),
        started("a"),
        finished("a", FAILED),
        finished("b", SUCCEEDED, attempt=1),
        passed("a", at=9_999.0),
        passed("c", at=9_999.0),
    ],
    ids=lambda event: f"{type(event).__name__} {getattr(event, 'step', '')}",
)
def test_late_and_repeated_events_change_nothing(late: AnyEvent) -> None:
    plan = plan_of(step("a"), step("b", "a", retry=Retry(limit=1, backoff_s=1.0)), step("c", "b"))
    story = Story(plan, admitted("a"), finished("a"), admitted("b"), finished("b", FAILED))
    story.then(passed("b", at=50.0), admitted("b", at=51.0))
    before = story.run

    story.then(late)

    assert story.run is before
    assert set(story.effects) <= {ReleaseSlot(step="a")}


def test_a_slot_for_a_step_that_is_not_queued_any_more_is_given_back() -> None:
    story = Story(plan_of(step("a"), step("b")), admitted("b"), CancelRequested(at=2.0), admitted("a"))

    assert story.effects == (ReleaseSlot(step="a"),)


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (admitted("x"), "there is no step 'x'"),
        (started("b"), "attempt 1 of step 'b' was never launched"),
        (finished("a", attempt=2), "attempt 2 of step 'a' was never launched"),
        (finished("a", attempt=0), "attempt 0 of step 'a' was never launched"),
    ],
)
def test_what_can_never_have_happened_raises_with_the_history(event: AnyEvent, why: str) -> None:
    story = Story(plan_of(step("a"), step("b")), admitted("a"), started("a"))

    with pytest.raises(ImpossibleTransitionError) as raised:
        story.then(event)

    assert why in str(raised.value)
    assert "a is running since 3.000: attempt 1 launched 2.000, started 3.000" in str(raised.value)


def test_a_resumed_run_asks_again_for_all_that_is_open() -> None:
    plan = plan_of(step("starting"), step("killed"), step("queued"), step("done"), step("waiting", "queued"))
    story = Story(plan, admitted("starting"), admitted("killed"), admitted("done"), finished("done"))
    story.then(passed("killed", at=102.0))

    loaded = replace(story.run, unmet=immutables.Map[str, int](), unfinished=None)

    assert resume(loaded, plan) == (
        LaunchStep(step="starting", attempt=1),
        LaunchStep(step="killed", attempt=1),
        KillStep(step="killed", attempt=1, ending=Ending.TIMED_OUT),
        RequestSlot(step="queued"),
    )
    assert dict(deadlines(loaded)) == {"starting": 102.0, "killed": 132.0, "queued": 1001.0}
    assert advance(loaded, admitted("queued"), plan).run == advance(story.run, admitted("queued"), plan).run


def test_a_resumed_run_pins_its_codesets_if_that_is_open_and_a_finished_one_does_nothing() -> None:
    plan = plan_of(step("a", codeset=literal("code")))

    assert resume(Story(plan).run, plan) == (PinCodesets(),)
    assert resume(Story(plan, CancelRequested(at=2.0)).run, plan) == ()


def test_a_wide_fan_in_costs_little_and_names_what_is_left() -> None:
    names = [f"s{n}" for n in range(2_000)]
    story = Story(plan_of(*(step(name) for name in names), step("last", *names)))
    rewritten = 0

    for name in names[:-3]:
        story.then(admitted(name), finished(name))
        rewritten += "last" in story.changed

    assert rewritten < 20
    assert story.run.steps["last"].reason == "waiting for s1997, s1998 (+1 more)"
