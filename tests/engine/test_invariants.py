"""Random workflows under random events, late, repeated and missing ones too: see `World` for what is checked."""

from __future__ import annotations

import copy

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from fusemld.engine.advance import advance
from fusemld.engine.events import (
    AnyEvent,
    CancelRequested,
    ClockMoved,
    CodesetsPinned,
    CodesetsUnavailable,
    DeadlinePassed,
    RetryRequested,
    StepAdmitted,
    StepFinished,
    StepStarted,
)
from fusemld.model.errors import ConflictError, ImpossibleTransitionError
from fusemld.model.run import Ending, Outcome, RunState, StepState
from fusemld.model.workflow import Workflow
from tests.engine.worlds import PINS, SUCCEEDED, World, answer_all, let_time_pass, workflows

POSITIONS = st.integers(0, 5)
ENDINGS = st.sampled_from(Ending)
PLAUSIBLE = (Ending.SUCCEEDED, Ending.SUCCEEDED, Ending.LOST, Ending.PROGRAM_FAILED)


class RunMachine(RuleBasedStateMachine):
    world: World

    @initialize(workflow=workflows(), slots=st.none() | st.integers(1, 3))
    def create(self, workflow: Workflow, slots: int | None) -> None:
        self.world = World(workflow, slots)
        self.past: list[AnyEvent] = []

    def send(self, event: AnyEvent) -> None:
        self.past.append(event)
        self.world.send(event)

    def name(self, position: int) -> str:
        return self.world.names[position % len(self.world.names)]

    @rule(seconds=st.sampled_from([0.0, 0.5, 5.0, 10.0, 100.0, 600.0]))
    def wait(self, seconds: float) -> None:
        self.world.now += seconds

    # What the world answers

    @rule()
    def pin(self) -> None:
        self.send(CodesetsPinned(at=self.world.now, codesets=PINS))

    @rule()
    def lose_codesets(self) -> None:
        self.send(CodesetsUnavailable(at=self.world.now, message="gone"))

    @rule()
    def admit(self) -> None:
        self.world.admit()

    @rule(position=POSITIONS)
    def begin(self, position: int) -> None:
        name = self.name(position)
        if (attempt := self.world.step(name).attempt) > 0:
            self.send(StepStarted(at=self.world.now, step=name, attempt=attempt))

    @rule(position=POSITIONS)
    def succeed(self, position: int) -> None:
        self.end(position, 0, Ending.SUCCEEDED, True)

    @rule(position=POSITIONS, back=st.integers(0, 2), ending=ENDINGS, outputs=st.booleans())
    def end(self, position: int, back: int, ending: Ending, outputs: bool) -> None:
        """Of the latest attempt or an earlier one, if there is one."""
        name = self.name(position)
        attempt = self.world.step(name).attempt - back
        if attempt > 0:
            values = {"o": f"value {self.world.now}", "more": ""} if outputs else {}
            self.send(
                StepFinished(
                    at=self.world.now,
                    step=name,
                    attempt=attempt,
                    outcome=Outcome(ending=ending),
                    outputs=values,
                    outputs_file=f"file of {attempt}",
                )
            )

    @rule(moves=st.lists(st.tuples(POSITIONS, st.sampled_from(PLAUSIBLE)), max_size=8))
    def go_on_for_a_while(self, moves: list[tuple[int, Ending]]) -> None:
        """The world does what it was asked to do: otherwise few histories would get far."""
        if self.world.run.codesets is None:
            self.pin()
        self.launch_what_can_be()
        for position, ending in moves:
            if active := self.world.active():
                name = active[position % len(active)].name
                self.end(self.world.names.index(name), 0, ending, True)
            self.launch_what_can_be()

    def launch_what_can_be(self) -> None:
        for position, name in enumerate(self.world.names):
            if self.world.step(name).state is StepState.BACKOFF:
                self.deadline(position, True)
        self.world.admit()

    @rule(position=POSITIONS, is_due=st.booleans())
    def deadline(self, position: int, is_due: bool) -> None:
        step = self.world.step(self.name(position))
        if is_due and step.deadline is not None:
            self.world.now = max(self.world.now, step.deadline)
        self.send(DeadlinePassed(at=self.world.now, step=step.name))

    @rule(by_s=st.floats(-1e6, 1e6))
    def set_clock(self, by_s: float) -> None:
        before = self.world.run
        self.world.now += by_s
        self.send(ClockMoved(at=self.world.now, by_s=by_s))
        for name, step in self.world.run.steps.items():
            old = before.steps[name]
            assert replace(step, since=old.since, deadline=old.deadline) == old, "nothing else changes"
            if step.deadline is not None:
                assert step.since <= self.world.now, "nothing began in the future"
                assert old.deadline is not None
                assert step.deadline - step.since == pytest.approx(old.deadline - old.since, abs=1e-6), (
                    "nor lasts longer"
                )

    # What people want

    @rule()
    def cancel(self) -> None:
        self.send(CancelRequested(at=self.world.now, by="ann"))

    @precondition(lambda self: self.world.run.state in (RunState.FAILED, RunState.CANCELLED))
    @rule()
    def retry(self) -> None:
        before = self.world.run
        self.world.send(RetryRequested(at=self.world.now))
        assert self.world.run.state is RunState.RUNNING
        for name, step in before.steps.items():
            if step.state is not StepState.SUCCEEDED:
                after = self.world.step(name)
                assert not after.state.is_final, "everything that did not succeed is tried again"
                assert after.retries_used == after.losses == 0
                assert after.attempts == step.attempts

    @precondition(lambda self: self.world.run.state in (RunState.RUNNING, RunState.SUCCEEDED))
    @rule()
    def retry_what_did_not_fail(self) -> None:
        with pytest.raises(ConflictError, match="neither failed nor cancelled"):
            advance(self.world.run, RetryRequested(at=self.world.now), self.world.plan)

    # What should not happen, and does

    @precondition(lambda self: self.past)
    @rule(which=st.integers(0, 20))
    def repeat(self, which: int) -> None:
        """An event comes again, some time later, with the time at which it happened."""
        event = self.past[-1 - which % len(self.past)]
        if not isinstance(event, CancelRequested):
            self.world.send(event)

    @rule(position=POSITIONS)
    def admit_what_asked_for_nothing(self, position: int) -> None:
        name = self.name(position)
        if self.world.step(name).state is not StepState.QUEUED:
            self.world.send(StepAdmitted(at=self.world.now, step=name))

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @rule(position=POSITIONS, ahead=st.integers(1, 2))
    def report_an_attempt_that_never_was(self, position: int, ahead: int) -> None:
        name = self.name(position)
        attempt = self.world.step(name).attempt + ahead
        for event in (
            StepStarted(at=self.world.now, step=name, attempt=attempt),
            StepStarted(at=self.world.now, step=name, attempt=0),
            StepFinished(at=self.world.now, step=name, attempt=attempt, outcome=SUCCEEDED),
            StepAdmitted(at=self.world.now, step="unknown"),
        ):
            with pytest.raises(ImpossibleTransitionError, match=r"run r of w, created 1000000000\.000"):
                advance(self.world.run, event, self.world.plan)

    @precondition(lambda self: self.world.mounts_code and self.world.run.codesets is None)
    @precondition(lambda self: self.world.run.state is RunState.RUNNING)
    @rule()
    def pin_too_little(self) -> None:
        with pytest.raises(ImpossibleTransitionError, match="without 'code'"):
            advance(self.world.run, CodesetsPinned(at=self.world.now, codesets={}), self.world.plan)

    @invariant()
    def earlier_attempts_have_no_say(self) -> None:
        for step in self.world.run.steps.values():
            for attempt in step.attempts[:-1]:
                late = StepFinished(at=self.world.now, step=step.name, attempt=attempt.number, outcome=SUCCEEDED)
                assert advance(self.world.run, late, self.world.plan).run == self.world.run

    def teardown(self) -> None:
        """Wherever the events have led, there is a way out."""
        if hasattr(self, "world"):
            self.check_that_a_helpful_world_ends_it(copy.copy(self.world))
            self.check_that_a_cancel_ends_it(copy.copy(self.world))
            self.check_that_time_ends_what_nobody_works_on(copy.copy(self.world))

    def check_that_a_helpful_world_ends_it(self, world: World) -> None:
        world.restart()
        answer_all(world)
        assert world.run.state is not RunState.RUNNING, "nothing is stuck"

    def check_that_a_cancel_ends_it(self, world: World) -> None:
        world.restart()
        world.launched = set(world.launched)
        world.send(CancelRequested(at=world.now))
        endings = (Ending.SUCCEEDED, Ending.LOST, Ending.SIGNALLED, Ending.CANCELLED)
        for step, ending in zip(world.active(), endings * 2, strict=False):
            world.finish(step.name, Outcome(ending=ending))
        assert world.run.state is not RunState.RUNNING, "cancel always ends"

    def check_that_time_ends_what_nobody_works_on(self, world: World) -> None:
        world.restart()
        let_time_pass(world)
        for step in world.run.steps.values():
            assert step.state.is_final or step.state is StepState.WAITING or step.kill_requested
        assert (world.run.state is RunState.RUNNING) == bool(world.active()), "nothing waits for ever"


TestRunMachine = RunMachine.TestCase
TestRunMachine.settings = settings(max_examples=settings().max_examples * 3 // 2, stateful_step_count=40)
