from __future__ import annotations

import immutables
import msgspec
import pytest
from msgspec.structs import replace

from fusemld.api.why import why_view
from fusemld.engine.plan import Plan, make_plan
from fusemld.model.run import Attempt, Ending, Outcome, Run, RunState, StepRun, StepState
from fusemld.model.template import literal
from fusemld.model.workflow import Step, Workflow

FAILED = Attempt(
    number=1,
    reason="first",
    launched_at=100.0,
    started_at=100.5,
    ended_at=103.0,
    outcome=Outcome(
        ending=Ending.PROGRAM_FAILED, message="exit status 3", exit_status=3, tail="Traceback\nKeyError"
    ),
)
SECOND = Attempt(number=2, reason="retry 1 of 2; before: program failed: exit status 3", launched_at=105.0)


def chain_of(*names: str) -> Plan:
    """Each step waits for the one before it."""
    return make_plan(Workflow(name="w", steps=tuple(Step(name=name, image=literal("i")) for name in names)))


def run_of(*steps: StepRun, state: RunState = RunState.RUNNING) -> Run:
    return Run(
        id="r1",
        workflow="w",
        workflow_digest="d",
        created_at=90.0,
        state=state,
        codesets={},
        steps=immutables.Map({step.name: step for step in steps}),
    )


def test_it_names_the_failed_step_its_cause_its_last_lines_and_what_helps() -> None:
    steps = (
        StepRun(name="zeta", state=StepState.FAILED, attempts=(FAILED,)),
        StepRun(name="alpha", state=StepState.SKIPPED, reason="needs zeta, which failed"),
    )

    why = why_view(run_of(*steps, state=RunState.FAILED), chain_of("zeta", "alpha"))

    assert why.headline == "run r1 of w: zeta: exit status 3"
    assert [(item.step, item.reason, item.tail) for item in why.items] == [
        ("zeta", "exit status 3", "Traceback\nKeyError"),
        ("alpha", "needs zeta, which failed", ""),
    ]
    assert why.next == ("fuseml logs r1 zeta", "fuseml retry r1")


def test_nobody_is_sent_to_the_log_of_a_step_that_was_never_started() -> None:
    refused = replace(
        FAILED, started_at=None, outcome=Outcome(ending=Ending.CANNOT_START, message="no such image")
    )
    step = StepRun(name="a", state=StepState.FAILED, attempts=(refused,))

    why = why_view(run_of(step, state=RunState.FAILED), chain_of("a"))

    assert why.next == ("fuseml retry r1",)


def test_of_a_run_that_succeeded_nothing_is_to_be_said() -> None:
    step = StepRun(name="a", state=StepState.SUCCEEDED)

    why = why_view(run_of(step, state=RunState.SUCCEEDED), chain_of("a"))

    assert (why.headline, why.items, why.next) == ("run r1 of w: succeeded", (), ())


@pytest.mark.parametrize(
    ("step", "then"),
    [
        (StepRun(name="a", state=StepState.QUEUED), "it fails if no slot was free by then"),
        (StepRun(name="a", state=StepState.BACKOFF, attempts=(FAILED,)), "attempt 2 starts"),
        (StepRun(name="a", state=StepState.STARTING), "it is stopped if it is not over by then"),
        (StepRun(name="a", state=StepState.RUNNING), "it is stopped if it is not over by then"),
        (
            StepRun(name="a", state=StepState.RUNNING, kill_requested=Ending.CANCELLED),
            "it is told to stop again",
        ),
        (StepRun(name="a", state=StepState.WAITING), "the run fails if its codesets are not there by then"),
    ],
)
def test_a_deadline_comes_with_what_happens_then(step: StepRun, then: str) -> None:
    waiting = msgspec.structs.replace(step, reason="because", since=91.0, deadline=200.0)

    (item,) = why_view(run_of(waiting), chain_of("a")).items

    assert item.reason == "because"
    assert item.deadline is not None
    assert item.deadline.timestamp() == 200.0
    assert item.then == then


def test_a_step_that_waits_for_others_shows_the_chain_down_to_what_is_being_done() -> None:
    steps = (
        StepRun(name="a", state=StepState.SUCCEEDED),
        StepRun(name="b", state=StepState.RUNNING, reason="running", deadline=200.0),
        StepRun(name="c", reason="waiting for b"),
        StepRun(name="d", reason="waiting for c"),
    )

    why = why_view(run_of(*steps), chain_of("a", "b", "c", "d"), {"b": "unschedulable: 0/3 nodes are available"})

    assert why.headline == "run r1 of w: b: unschedulable: 0/3 nodes are available"
    assert {item.step: item.waits_for for item in why.items} == {"b": (), "c": ("b",), "d": ("c", "b")}
    assert why.items[-1].deadline is None
    assert why.items[-1].then == "it starts after c, or is skipped if that does not succeed"


@pytest.mark.parametrize(
    ("needed", "then"),
    [
        (("a",), "it starts after a, or is skipped if that does not succeed"),
        (("a", "b"), "it starts after a and b, or is skipped if one of them does not succeed"),
        (("b", "over", "a"), "it starts after b and a, or is skipped if one of them does not succeed"),
        (
            ("a", "b", "c", "d"),
            "it starts after a, b and the others, or is skipped if one of them does not succeed",
        ),
    ],
)
def test_a_step_that_waits_for_several_starts_after_all_of_them(needed: tuple[str, ...], then: str) -> None:
    states = {name: StepState.SUCCEEDED if name == "over" else StepState.RUNNING for name in needed}
    steps = (*(Step(name=name, image=literal("i"), needs=()) for name in needed),)
    plan = make_plan(Workflow(name="w", steps=(*steps, Step(name="last", image=literal("i"), needs=needed))))

    why = why_view(
        run_of(*(StepRun(name=name, state=state) for name, state in states.items()), StepRun(name="last")), plan
    )

    assert (why.items[-1].step, why.items[-1].then) == ("last", then)


def test_the_middle_of_a_long_chain_is_left_out() -> None:
    names = [f"s{number}" for number in range(5000)]
    first = StepRun(name="s0", state=StepState.RUNNING, reason="running", deadline=200.0)

    why = why_view(run_of(first, *(StepRun(name=name) for name in names[1:])), chain_of(*names))

    assert why.items[-1].waits_for == ("s4998", "s4997", "s4996", "…", "s0")
    assert why.items[5].waits_for == ("s4", "s3", "s2", "…", "s0")
    assert why.items[4].waits_for == ("s3", "s2", "s1", "s0")


def test_the_codesets_that_a_run_waits_for_are_named() -> None:
    step = StepRun(name="a", reason="waiting for the run's codesets", deadline=200.0)
    run = msgspec.structs.replace(run_of(step), codesets=None)

    (item,) = why_view(run, chain_of("a"), {"a": "cloning"}, codesets=("default/code", "other@v1")).items

    assert (item.reason, item.activity) == (
        "waiting for the run's codesets: default/code, other@v1",
        "cloning",
    )


def test_a_repeated_attempt_says_why_there_is_one() -> None:
    step = StepRun(name="a", state=StepState.STARTING, attempts=(FAILED, SECOND), deadline=200.0)

    (item,) = why_view(run_of(step), chain_of("a")).items

    assert (item.attempt, item.attempt_reason) == (2, "retry 1 of 2; before: program failed: exit status 3")


def test_what_holds_a_run_up_and_is_none_of_its_steps_doing_comes_first() -> None:
    step = StepRun(name="a", state=StepState.RUNNING, reason="running", deadline=200.0)

    why = why_view(run_of(step), chain_of("a"), trouble=("cannot write to the database: disk is full",))

    assert why.headline == "run r1 of w: cannot write to the database: disk is full"
    assert why.trouble == ("cannot write to the database: disk is full",)
    assert [item.step for item in why.items] == ["a"]


def test_a_run_whose_workflow_is_gone_is_still_explained() -> None:
    why = why_view(run_of(StepRun(name="b", reason="waiting for a"), StepRun(name="a")), None)

    assert [item.step for item in why.items] == ["a", "b"]


def test_bytes_that_are_no_text_can_be_shown() -> None:
    odd = b"\xff".decode("utf-8", "surrogateescape")
    outcome = Outcome(ending=Ending.PROGRAM_FAILED, message=odd, tail=odd)
    attempt = Attempt(number=1, reason="first", launched_at=1.0, ended_at=2.0, outcome=outcome)
    failed = StepRun(name="a", state=StepState.FAILED, attempts=(attempt,))

    why = why_view(run_of(failed, state=RunState.FAILED), None, trouble=(odd,))

    assert "\N{REPLACEMENT CHARACTER}" in msgspec.json.encode(why).decode()
