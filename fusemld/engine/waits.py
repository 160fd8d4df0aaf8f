"""Which steps a step waits for, in words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Protocol

from fusemld.engine.plan import Plan
from fusemld.model.run import StepRun, StepState

NAMED = 2
"""How many of the steps that a step waits for are named in its reason."""


class Steps(Protocol):
    """The part of a mapping that working copies have, too."""

    def __getitem__(self, name: str, /) -> StepRun: ...


def unmet_steps(plan: Plan, steps: Steps, name: str) -> Iterator[str]:
    """The steps that must yet succeed before the step can start, in listed order."""
    return (other for other in plan.dag.dependencies[name] if steps[other].state is not StepState.SUCCEEDED)


def waiting_reason(plan: Plan, steps: Steps, name: str, unmet: int) -> str:
    """`waiting for a, b (+3 more)`, where `unmet` is the number of all of them."""
    named = ", ".join(islice(unmet_steps(plan, steps, name), NAMED))
    return f"waiting for {named}" + (f" (+{unmet - NAMED} more)" if unmet > NAMED else "")
