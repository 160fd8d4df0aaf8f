"""Random workflows under random events, late, repeated and missing ones included."""

from __future__ import annotations

import re
from collections.abc import Callable

import immutables
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from fusemld.engine.advance import advance
from fusemld.engine.begin import new_run, resume
from fusemld.engine.draft import Advance
from fusemld.engine.effects import KillStep, LaunchStep, ReleaseSlot, RequestSlot
from fusemld.engine.events import (
    AnyEvent,
    CancelRequested,
    CodesetsPinned,
    CodesetsUnavailable,
    DeadlinePassed,
    RetryRequested,
    RunCreated,
    StepAdmitted,
    StepFinished,
    StepStarted,
)
from fusemld.engine.plan import Defaults, make_plan
from fusemld.model.codeset import PinnedCodeset
from fusemld.model.run import Ending, Outcome, Run, RunState, StepState
from fusemld.model.template import literal
from fusemld.model.workflow import (
    CodesetMount,
    Order,
    Retry,
    Step,
    StepInput,
    StepOutput,
    Workflow,
    WorkflowOutput,
)

DEFAULTS = Defaults(timeout_s=100.0, queue_timeout_s=500.0, pin_timeout_s=50.0, max_losses=1, kill_repeat_s=10.0)
PINS = {"code": PinnedCodeset(project="default", name="code", version="1", url="", digest="d")}
POSITIONS = st.integers(0, 5)
ENDINGS = st.sampled_from(Ending)


@st.composite
def workflows(draw: st.DrawFn) -> Workflow:
    steps = []
    for position in range(draw(st.integers(1, 6))):
        above = st.sets(st.integers(0, position - 1)) if position else st.just(set[int]())
        needs = draw(st.none() | above)
        retry = draw(st.none() | st.builds(Retry, limit=st.integers(0, 2), backoff_s=st.sampled_from([0.0, 5.0])))
        mount = StepInput(name="c", codeset=CodesetMount(name=literal("code"), path="/project"))
        steps.append(
            Step(
                name=f"s{position}",
                image=literal("image"),
                needs=None if needs is None else tuple(f"s{other}" for other in needs),
                retry=retry,
                outputs=(StepOutput(name="o"),),
                inputs=(mount,) if draw(st.booleans()) else (),
            )
        )
    order = draw(st.sampled_from(Order))
    return Workflow(name="w", steps=tuple(steps), outputs=(WorkflowOutput(name="o"),), order=order)


class RunMachine(RuleBasedStateMachine):
    run: Run

    @initialize(workflow=workflows())
    def create(self, workflow: Workflow) -> None:
        self.plan = make_plan(workflow, "digest", DEFAULTS)
        self.now = 1.0
        self.launched: set[tuple[str, int]] = set()
        self.slots: set[str] = set()
        self.last: AnyEvent = RunCreated(at=self.now)
        self.run = new_run(self.plan, id="r", created_at=self.now, inputs={})
        self.send(self.last)

    def send(self, event: AnyEvent) -> None:
        before, self.last = self.run, event
        advanced = advance(before, event, self.plan)
        self.run = advanced.run
        self.check_step(before, event, advanced)

    def check_step(self, before: Run, event: AnyEvent, advanced: Advance) -> None:
        differing = {name for name in before.steps if before.steps[name] != advanced.run.steps[name]}
        assert differing <= set(advanced.changed)
        for effect in advanced.effects:
            match effect:
                case LaunchStep(step=step, attempt=attempt):
                    assert (step, attempt) not in self.launched, "an attempt is launched once"
                    self.launched.add((step, attempt))
                    needed = self.plan.dag.dependencies[step]
                    assert all(before.steps[other].state is StepState.SUCCEEDED for other in needed)
                case RequestSlot(step=step):
                    assert step not in self.slots
                    self.slots.add(step)
                case ReleaseSlot(step=step):
                    self.slots.discard(step)
                case KillStep(step=step, attempt=attempt):
                    assert (step, attempt) in self.launched
                case _:
                    pass
        for name, step_before in before.steps.items():
            after = advanced.run.steps[name]
            if step_before.state is StepState.SUCCEEDED:
                assert after == step_before, "a success and its outputs stay"
            if step_before.state.is_final and not isinstance(event, RetryRequested):
                assert after == step_before, "final is final"
        if isinstance(event, StepStarted | StepFinished) and event.attempt < before.steps[event.step].attempt:
            assert advanced.run == before, "an earlier attempt has no say"
        if before.state is not RunState.RUNNING and not isinstance(event, RetryRequested):
            assert advanced.run == before

    def name(self, position: int) -> str:
        return self.plan.dag.names[position % len(self.plan.dag.names)]

    @rule(seconds=st.floats(0, 600))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def pin(self) -> None:
        self.send(CodesetsPinned(at=self.now, codesets=PINS))

    @rule()
    def lose_codesets(self) -> None:
        self.send(CodesetsUnavailable(at=self.now, message="gone"))

    @rule(position=POSITIONS)
    def admit(self, position: int) -> None:
        self.slots.add(self.name(position))
        self.send(StepAdmitted(at=self.now, step=self.name(position)))

    @rule(position=POSITIONS, back=st.integers(0, 2))
    def begin(self, position: int, back: int) -> None:
        self.about(position, back, lambda name, n: StepStarted(at=self.now, step=name, attempt=n))

    @rule(position=POSITIONS, back=st.integers(0, 2), ending=ENDINGS, outputs=st.booleans())
    def end(self, position: int, back: int, ending: Ending, outputs: bool) -> None:
        values = {"o": f"value {self.now}"} if outputs else {}
        outcome = Outcome(ending=ending)
        self.about(
            position,
            back,
            lambda name, n: StepFinished(at=self.now, step=name, attempt=n, outcome=outcome, outputs=values),
        )

    def about(self, position: int, back: int, event: Callable[[str, int], AnyEvent]) -> None:
        """Send an event about the latest attempt of a step or an earlier one, if there is one."""
        name = self.name(position)
        attempt = self.run.steps[name].attempt - back
        if attempt >= 1:
            self.send(event(name, attempt))

    @rule(position=POSITIONS)
    def succeed(self, position: int) -> None:
        self.end(position, 0, Ending.SUCCEEDED, True)

    @rule(position=POSITIONS)
    def lose_and_begin_again(self, position: int) -> None:
        self.end(position, 0, Ending.LOST, False)
        self.deadline(position, True)
        self.admit(position)

    @rule(position=POSITIONS, in_time=st.booleans())
    def deadline(self, position: int, in_time: bool) -> None:
        step = self.run.steps[self.name(position)]
        if in_time and step.deadline is not None:
            self.now = max(self.now, step.deadline)
        self.send(DeadlinePassed(at=self.now, step=step.name))

    @rule()
    def cancel(self) -> None:
        self.send(CancelRequested(at=self.now))

    @precondition(lambda self: self.run.state in (RunState.FAILED, RunState.CANCELLED))
    @rule()
    def retry(self) -> None:
        self.send(RetryRequested(at=self.now))

    @precondition(lambda self: not isinstance(self.last, RetryRequested))
    @rule()
    def repeat(self) -> None:
        self.send(self.last)

    @rule()
    def restart(self) -> None:
        """What is derived is gone after a restart, and the open effects come again."""
        self.run = replace(self.run, unmet=immutables.Map[str, int](), unfinished=None)
        for effect in resume(self.run, self.plan):
            if isinstance(effect, LaunchStep):
                assert (effect.step, effect.attempt) in self.launched

    @invariant()
    def every_unfinished_step_says_what_it_waits_for(self) -> None:
        for step in self.run.steps.values():
            if step.state.is_final:
                assert step.deadline is None
                continue
            assert step.reason
            assert step.since > 0
            named = re.search(r"waiting for (s\d)", step.reason)
            if step.deadline is None:
                assert named is not None
                assert not self.run.steps[named.group(1)].state.is_final, "it waits for what may still end"

    @invariant()
    def the_run_is_over_when_all_its_steps_are(self) -> None:
        is_open = any(not step.state.is_final for step in self.run.steps.values())
        assert is_open == (self.run.state is RunState.RUNNING)
        assert is_open == (self.run.finished_at is None)
        if self.run.state is RunState.SUCCEEDED:
            last = self.plan.dag.names[-1]
            assert self.run.outputs == {"o": self.run.steps[last].outputs["o"]}

    @invariant()
    def steps_that_want_or_hold_a_slot_are_known_to_admission(self) -> None:
        wanting = {s.name for s in self.run.steps.values() if s.state is StepState.QUEUED or s.state.is_active}
        assert wanting <= self.slots

    def teardown(self) -> None:
        if not hasattr(self, "run"):
            return
        left_alone = self.run
        self.answer_what_is_open()
        assert self.run.state is not RunState.RUNNING, "nothing is stuck"
        self.run = left_alone
        self.launched = {(step.name, a.number) for step in self.run.steps.values() for a in step.attempts}
        self.send(CancelRequested(at=self.now))
        for step in list(self.run.steps.values()):
            if step.state.is_active:
                outcome = Outcome(ending=Ending.SIGNALLED)
                self.send(StepFinished(at=self.now, step=step.name, attempt=step.attempt, outcome=outcome))
        assert self.run.state is not RunState.RUNNING, "cancel always ends"

    def answer_what_is_open(self) -> None:
        """The world does what it was asked to do."""
        for name in self.plan.dag.names * len(self.plan.dag.names):
            step = self.run.steps[name]
            if step.state is StepState.WAITING and step.deadline is not None:
                self.send(CodesetsPinned(at=self.now, codesets=PINS))
                step = self.run.steps[name]
            if step.state is StepState.BACKOFF and step.deadline is not None:
                self.send(DeadlinePassed(at=step.deadline, step=name))
                step = self.run.steps[name]
            if step.state is StepState.QUEUED:
                self.send(StepAdmitted(at=self.now, step=name))
                step = self.run.steps[name]
            if step.state.is_active:
                outcome = Outcome(ending=Ending.SUCCEEDED)
                outputs = {"o": "value"}
                self.send(
                    StepFinished(at=self.now, step=name, attempt=step.attempt, outcome=outcome, outputs=outputs)
                )


TestRunMachine = RunMachine.TestCase
TestRunMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
