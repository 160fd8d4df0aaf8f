"""How a run begins, and how it is taken up again after a restart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import immutables
from msgspec.structs import replace

from fusemld.engine.effects import AnyEffect, KillStep, LaunchStep, PinCodesets, RequestSlot
from fusemld.engine.plan import Plan
from fusemld.engine.waits import waiting_reason
from fusemld.model.codeset import DEFAULT_PROJECT
from fusemld.model.run import Run, RunState, StepRun, StepState


def new_run(
    plan: Plan,
    *,
    id: str,  # noqa: A002 - the name of the field
    created_at: float,
    inputs: Mapping[str, str],
    project: str = DEFAULT_PROJECT,
    user: str = "",
    cause: str = "",
    executor: str = "process",
) -> Run:
    """The run before its first event, `RunCreated`. `inputs` are complete: defaults have been filled in."""
    unmet = {name: len(needed) for name, needed in plan.dag.dependencies.items() if needed}
    fresh = {name: StepRun(name=name) for name in plan.dag.names}
    pin_by = created_at + plan.defaults.pin_timeout_s
    steps = {
        name: replace(step, since=created_at, reason=waiting_reason(plan, fresh, name, unmet[name]))
        if name in unmet
        else replace(step, since=created_at, reason="waiting for the run's codesets", deadline=pin_by)
        for name, step in fresh.items()
    }
    return Run(
        id=id,
        workflow=plan.workflow.name,
        workflow_digest=plan.digest,
        project=project,
        user=user,
        cause=cause,
        executor=executor,
        inputs=dict(inputs),
        created_at=created_at,
        steps=immutables.Map(steps),
        unmet=immutables.Map(unmet),
        unfinished=len(steps),
    )


def resume(run: Run, plan: Plan) -> tuple[AnyEffect, ...]:
    """All that must be done again for a run that was loaded, in listed order.

    Queued steps are requested, active ones launched (the executor recognises what it knows) and, where that was
    asked for, killed; their slots are taken already. Timers follow from `deadlines`. Nothing for a finished run.
    """
    if run.state is not RunState.RUNNING:
        return ()
    effects: list[AnyEffect] = [PinCodesets()] if run.codesets is None else []
    for name in plan.dag.names:
        step = run.steps[name]
        if step.state is StepState.QUEUED:
            effects.append(RequestSlot(step=name))
        elif step.state.is_active:
            effects.append(LaunchStep(step=name, attempt=step.attempt))
            if step.kill_requested is not None:
                effects.append(KillStep(step=name, attempt=step.attempt, ending=step.kill_requested))
    return tuple(effects)


def deadlines(run: Run) -> Iterator[tuple[str, float]]:
    """Every step that has a deadline, and when. After each event only the changed steps need a look."""
    return ((name, step.deadline) for name, step in run.steps.items() if step.deadline is not None)
