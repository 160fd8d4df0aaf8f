"""The parts of runs and steps that are stored as JSON. A field that is added needs a default."""

from __future__ import annotations

from typing import Self

import msgspec

from fusemld.model.codeset import PinnedCodeset
from fusemld.model.extension import ResolvedService
from fusemld.model.run import Attempt, Ending, StepRun, StepState


class StoredRun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    inputs: dict[str, str] = {}
    codesets: dict[str, PinnedCodeset] | None = None


class StoredStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A step without what has a column or a table of its own: name, state, outputs and their file."""

    reason: str = ""
    since: float = 0.0
    deadline: float | None = None
    attempts: tuple[Attempt, ...] = ()
    retries_used: int = 0
    losses: int = 0
    reserved: int = 0
    kill_requested: Ending | None = None
    services: tuple[ResolvedService, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, step: StepRun) -> Self:
        return cls(
            reason=step.reason,
            since=step.since,
            deadline=step.deadline,
            attempts=step.attempts,
            retries_used=step.retries_used,
            losses=step.losses,
            reserved=step.reserved,
            kill_requested=step.kill_requested,
            services=step.services,
            warnings=step.warnings,
        )

    def step(self, name: str, state: StepState, outputs: dict[str, str], outputs_file: str) -> StepRun:
        return StepRun(
            name=name,
            state=state,
            reason=self.reason,
            since=self.since,
            deadline=self.deadline,
            attempts=self.attempts,
            retries_used=self.retries_used,
            losses=self.losses,
            reserved=self.reserved,
            kill_requested=self.kill_requested,
            outputs=outputs,
            outputs_file=outputs_file,
            services=self.services,
            warnings=self.warnings,
        )
