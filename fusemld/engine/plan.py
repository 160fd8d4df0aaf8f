"""What all runs of the same workflow share, and the engine's limits."""

from __future__ import annotations

from functools import cached_property

import msgspec

from fusemld.engine.dag import Dag, build
from fusemld.model.workflow import Step, Workflow

DAY_S = 24 * 3600.0


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """How long things may take where the workflow does not say.

    `timeout_s` holds for one attempt, from its launch. `queue_timeout_s` is how long a step may wait for a slot,
    `pin_timeout_s` a run for its codesets. A lost attempt is repeated `max_losses` times without using up `retry`,
    after `loss_backoff_s * 2**(n-1)`, at most `max_loss_backoff_s`. An attempt that was told to stop is told
    again every `kill_repeat_s` until its end is reported.
    """

    timeout_s: float = DAY_S
    queue_timeout_s: float = 7 * DAY_S
    pin_timeout_s: float = 3600.0
    max_losses: int = 5
    loss_backoff_s: float = 1.0
    max_loss_backoff_s: float = 60.0
    kill_repeat_s: float = 60.0


class Plan(msgspec.Struct, frozen=True, kw_only=True, dict=True, weakref=True):
    """A workflow with its order. `digest` is that of its document: equal digests may share one plan."""

    workflow: Workflow
    digest: str = ""
    dag: Dag
    defaults: Defaults = Defaults()

    def step(self, name: str) -> Step:
        return self.workflow.steps[self.dag.index[name]]

    def timeout_s(self, name: str) -> float:
        timeout_s = self.step(name).timeout_s
        return self.defaults.timeout_s if timeout_s is None else timeout_s

    @cached_property
    def output_steps(self) -> dict[str, str]:
        """The last listed step that declares an output, by the name of the output."""
        return {output.name: step.name for step in self.workflow.steps for output in step.outputs}


def make_plan(workflow: Workflow, digest: str = "", defaults: Defaults | None = None) -> Plan:
    """Raises `InvalidInputError` where the steps cannot be ordered."""
    return Plan(workflow=workflow, digest=digest, dag=build(workflow), defaults=defaults or Defaults())
