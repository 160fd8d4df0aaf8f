"""Random workflows, and a world around the engine that keeps slots, answers, and checks every transition.

What is checked here is told from the events alone: the rules are written down a second time, in other words.
"""

from __future__ import annotations

import immutables
from hypothesis import strategies as st
from msgspec.structs import replace

from fusemld.engine.admission import Admission
from fusemld.engine.advance import advance
from fusemld.engine.begin import new_run, resume
from fusemld.engine.draft import Advance
from fusemld.engine.effects import FinishRun, KillStep, LaunchStep, PinCodesets, ReleaseSlot, RequestSlot
from fusemld.engine.events import (
    AnyEvent,
    CancelRequested,
    CodesetsPinned,
    DeadlinePassed,
    RetryRequested,
    RunCreated,
    StepAdmitted,
    StepFinished,
    StepStarted,
)
from fusemld.engine.plan import Defaults, Plan, make_plan
from fusemld.model.codeset import PinnedCodeset
from fusemld.model.run import NOBODYS_FAULT, Ending, Outcome, Run, RunState, StepRun, StepState
from fusemld.model.template import Reference, Template, literal
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
SUCCEEDED = Outcome(ending=Ending.SUCCEEDED)


@st.composite
def workflows(draw: st.DrawFn) -> Workflow:
    """Up to six steps: barriers, `needs`, references to outputs, retries, timeouts and codesets in any mixture."""
    steps = []
    for position in range(draw(st.integers(1, 6))):
        above = st.sets(st.integers(0, position - 1), max_size=3) if position else st.just(set[int]())
        needs = draw(st.none() | above)
        inputs = [
            StepInput(name=f"i{other}", value=Template((Reference(("steps", f"s{other}", "outputs", "o")),)))
            for other in draw(above)
        ]
        if draw(st.booleans()):
            inputs.append(StepInput(name="c", codeset=CodesetMount(name=literal("code"), path="/project")))
        steps.append(
            Step(
                name=f"s{position}",
                image=literal("image"),
                needs=None if needs is None else tuple(f"s{other}" for other in sorted(needs)),
                retry=draw(
                    st.none() | st.builds(Retry, limit=st.integers(0, 2), backoff_s=st.sampled_from([0.0, 5.0]))
                ),
                timeout_s=draw(st.none() | st.sampled_from([1.0, 30.0])),
                outputs=(StepOutput(name="o"),),
                inputs=tuple(inputs),
            )
        )
    order = draw(st.sampled_from([Order.DAG, Order.DAG, Order.LISTED]))
    return Workflow(name="w", steps=tuple(steps), outputs=(WorkflowOutput(name="o"),), order=order)


class World:
    """One run, with the real book of slots. `send` is the only way in."""

    def __init__(self, workflow: Workflow, slots: int | None) -> None:
        self.plan: Plan = make_plan(workflow, "digest", DEFAULTS)
        self.slots = slots
        self.now = 1e9
        self.launched: set[tuple[str, int]] = set()
        self.admission = Admission(slots)
        self.pins_asked = 0
        self.run: Run = new_run(self.plan, id="r", created_at=self.now, inputs={})
        self.mounts_code = any(entry.codeset is not None for step in workflow.steps for entry in step.inputs)
        self.send(RunCreated(at=self.now))

    @property
    def names(self) -> tuple[str, ...]:
        return self.plan.dag.names

    def step(self, name: str) -> StepRun:
        return self.run.steps[name]

    def active(self) -> list[StepRun]:
        return [step for step in self.run.steps.values() if step.state.is_active]

    def send(self, event: AnyEvent) -> None:
        before = self.run
        advanced = advance(before, event, self.plan)
        assert_equal_after_a_restart(before, event, advanced, self.plan)
        self.run = advanced.run
        self._perform(before, advanced)
        self._check_steps(before, event, advanced)
        self._check_run(before, event, advanced)
        self._check_waits()

    def admit(self) -> None:
        """Who is next gets the free slots, as the supervisor does it."""
        for _ in range(len(self.names) + 1):
            for _, name in self.admission.admit():
                self.send(StepAdmitted(at=self.now, step=name))
        assert not self.admission.has_room(), "who has a slot needs no other"

    def finish(self, name: str, outcome: Outcome, outputs: dict[str, str] | None = None) -> None:
        """The end of the latest attempt."""
        self.send(
            StepFinished(
                at=self.now, step=name, attempt=self.step(name).attempt, outcome=outcome, outputs=outputs or {}
            )
        )

    def restart(self) -> None:
        """The daemon begins anew with what is stored: what is derived is gone, the open effects come again."""
        self.run = stored(self.run)
        self.admission = Admission(self.slots)
        for step in self.active():
            self.admission.occupy(("r", step.name), "w")
        again = resume(self.run, self.plan)
        for effect in again:
            match effect:
                case LaunchStep(step=name, attempt=attempt):
                    assert (name, attempt) in self.launched, "nothing is launched that was not"
                case RequestSlot(step=name):
                    self.admission.request(("r", name), "w")
                case KillStep(step=name, attempt=attempt, ending=ending):
                    assert self.step(name).kill_requested is ending
                    assert self.step(name).attempt == attempt
                case PinCodesets():
                    assert self.run.codesets is None
                case _:
                    raise AssertionError(effect)
        taken_up = {effect.step for effect in again if isinstance(effect, LaunchStep)}
        assert taken_up == {step.name for step in self.active()}, "every attempt under way is taken up"
        assert (PinCodesets() in again) == (self.run.codesets is None and self.run.state is RunState.RUNNING)
        self._check_waits()

    def _perform(self, before: Run, advanced: Advance) -> None:
        for effect in advanced.effects:
            match effect:
                case LaunchStep(step=name, attempt=attempt):
                    assert (name, attempt) not in self.launched, "an attempt is launched once"
                    assert attempt == before.steps[name].attempt + 1, "attempts are counted without gaps"
                    assert ("r", name) in self.admission.holders, "nothing is launched without a slot"
                    assert not before.cancel_requested, "nothing is launched in a run that was cancelled"
                    assert self.run.codesets is not None, "nothing is launched before the codesets are pinned"
                    needed = self.plan.dag.dependencies[name]
                    assert all(before.steps[other].state is StepState.SUCCEEDED for other in needed)
                    self.launched.add((name, attempt))
                case RequestSlot(step=name):
                    assert not self.admission.knows(("r", name)), "a slot is asked for once"
                    self.admission.request(("r", name), "w")
                case ReleaseSlot(step=name):
                    self.admission.release(("r", name))
                case KillStep(step=name, attempt=attempt):
                    assert self.step(name).state.is_active
                    assert self.step(name).attempt == attempt, "only the attempt under way is killed"
                    assert self.step(name).kill_requested is not None
                case PinCodesets():
                    assert self.mounts_code
                    self.pins_asked += 1
                case FinishRun():
                    assert self.run.state is not RunState.RUNNING

    def _check_steps(self, before: Run, event: AnyEvent, advanced: Advance) -> None:
        for name, old in before.steps.items():
            new = self.step(name)
            if new != old:
                assert name in advanced.changed, "what changes is told"
            if old.state is StepState.SUCCEEDED:
                assert new == old, "a success and its outputs stay"
            if old.state.is_final and not isinstance(event, RetryRequested):
                assert new == old, "final is final"
            past = [attempt for attempt in old.attempts if attempt.ended_at is not None]
            assert list(new.attempts[: len(past)]) == past, "what is recorded of an attempt that ended stays"
            assert len(new.attempts) >= len(old.attempts)
            if new.state is StepState.SUCCEEDED:
                assert new.outputs.keys() == {"o"}, "success has every output"
            if new.state is not StepState.SUCCEEDED:
                assert not new.outputs_file, "nor is there a file of outputs that do not count"
            retry = self.plan.step(name).retry
            assert new.retries_used <= (0 if retry is None else retry.limit), "retries are bounded"
            assert new.losses <= DEFAULTS.max_losses, "so is what is repeated for free"
            if len(new.attempts) > len(old.attempts):
                assert new.deadline == self.now + self.plan.timeout_s(name), "an attempt has its timeout"
        if isinstance(event, StepStarted | StepFinished) and event.attempt < before.steps[event.step].attempt:
            assert self.run == before, "an earlier attempt has no say"
        if isinstance(event, StepFinished):
            self._check_ending(before.steps[event.step], self.step(event.step))
        if isinstance(event, DeadlinePassed):
            self._check_deadline(before.steps[event.step], event)

    def _check_ending(self, old: StepRun, new: StepRun) -> None:
        """A step fails only when nothing is left to be tried."""
        if old.state.is_active and new.state is StepState.FAILED:
            retry = self.plan.step(new.name).retry
            outcome = new.attempts[-1].outcome
            assert outcome is not None
            assert old.retries_used == (0 if retry is None else retry.limit), "every retry is used"
            if outcome.ending in NOBODYS_FAULT:
                assert old.losses == DEFAULTS.max_losses, "what is nobody's fault is repeated for free"

    def _check_deadline(self, old: StepRun, event: DeadlinePassed) -> None:
        new = self.step(event.step)
        if old.deadline is None or old.state.is_final:
            assert new == old
        elif event.at < old.deadline:
            assert new == old, "a timer that comes early changes nothing"
        else:
            assert new.deadline is None or new.deadline > event.at, "a deadline that passed is gone or later"
            assert (new.state, new.deadline) != (old.state, old.deadline), "something happens"

    def _check_run(self, before: Run, event: AnyEvent, advanced: Advance) -> None:
        if before.state is not RunState.RUNNING and not isinstance(event, RetryRequested):
            assert self.run == before, "what is over stays over"
        is_open = any(not step.state.is_final for step in self.run.steps.values())
        assert is_open == (self.run.state is RunState.RUNNING), "a run is over when its steps are"
        assert is_open == (self.run.finished_at is None)
        ends = before.state is RunState.RUNNING and not is_open
        assert ends == (FinishRun() in advanced.effects) or isinstance(event, RetryRequested)
        states = {step.state for step in self.run.steps.values()}
        match self.run.state:
            case RunState.SUCCEEDED:
                assert states == {StepState.SUCCEEDED}
                assert self.run.outputs == {"o": self.step(self.names[-1]).outputs["o"]}
            case RunState.CANCELLED:
                assert self.run.cancel_requested
                assert StepState.CANCELLED in states
            case RunState.FAILED:
                assert states & {StepState.FAILED, StepState.SKIPPED, StepState.CANCELLED}
                assert self.run.message, "a failed run says why"
            case RunState.RUNNING:
                pass
        if isinstance(event, CancelRequested) and before.state is RunState.RUNNING:
            assert all(step.state.is_final or step.kill_requested for step in self.run.steps.values())

    def _check_waits(self) -> None:
        """Everything that is not over says what it waits for, and that is still to come."""
        assert {step.name for step in self.active()} == {
            name for _, name in self.admission.holders
        } - self._offered()
        for step in self.run.steps.values():
            queued = self.admission.knows(("r", step.name)) and not step.state.is_active
            assert queued == (step.state is StepState.QUEUED), (
                "who waits for a slot is in the line, and nobody else"
            )
            if step.state.is_final:
                assert step.deadline is None
                continue
            assert step.reason
            assert step.since > 0
            if step.deadline is None:
                assert step.state is StepState.WAITING
                unmet = [
                    other
                    for other in self.plan.dag.dependencies[step.name]
                    if self.step(other).state is not StepState.SUCCEEDED
                ]
                assert unmet
                assert all(not self.step(other).state.is_final for other in unmet), (
                    "it waits for what may still end"
                )
                assert any(other in step.reason for other in unmet), "the reason names one of them"
            elif step.state is StepState.WAITING:
                assert self.run.codesets is None, "only codesets make a step wait that no other step does"

    def _offered(self) -> set[str]:
        """Steps that have a slot and are told so next."""
        return {name for _, name in self.admission.holders if self.step(name).state is StepState.QUEUED}


def stored(run: Run) -> Run:
    """The run as it comes back from the database."""
    return replace(run, unmet=immutables.Map[str, int](), unfinished=None)


def assert_equal_after_a_restart(before: Run, event: AnyEvent, advanced: Advance, plan: Plan) -> None:
    again = advance(stored(before), event, plan)
    assert again.effects == advanced.effects, "a restart before the event changes nothing"
    assert stored(again.run) == stored(advanced.run)


def answer_all(world: World) -> None:
    """The world does at once what it was asked to do, and everything succeeds."""
    for _ in range(4 * len(world.names) + 4):
        if world.run.state is not RunState.RUNNING:
            return
        if world.run.codesets is None:
            world.send(CodesetsPinned(at=world.now, codesets=PINS))
        for step in list(world.run.steps.values()):
            if step.state is StepState.BACKOFF and step.deadline is not None:
                world.now = max(world.now, step.deadline)
                world.send(DeadlinePassed(at=world.now, step=step.name))
        world.admit()
        for step in world.active():
            world.finish(step.name, SUCCEEDED, {"o": "value"})


def let_time_pass(world: World) -> None:
    """Nobody answers any more: there are only deadlines, each told when it is due. It is over when nothing is left
    but attempts that are told to end, again and again."""
    for _ in range(8 * len(world.names) + 8):
        due = [
            step.deadline
            for step in world.run.steps.values()
            if step.deadline is not None and step.kill_requested is None
        ]
        if not due:
            return
        world.now = max(world.now, min(due))
        for step in list(world.run.steps.values()):
            if step.deadline is not None and step.deadline <= world.now:
                world.send(DeadlinePassed(at=world.now, step=step.name))
