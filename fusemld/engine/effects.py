"""What is to be done. Every effect is safe to repeat."""

from __future__ import annotations

import msgspec

from fusemld.model.run import Ending


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    pass


class PinCodesets(Effect, frozen=True, kw_only=True):
    """Pin the run's codesets; answered by `CodesetsPinned` or `CodesetsUnavailable`."""


class RequestSlot(Effect, frozen=True, kw_only=True):
    """Queue the step for admission; answered by `StepAdmitted`."""

    step: str


class ReleaseSlot(Effect, frozen=True, kw_only=True):
    """The step no longer waits for a slot and holds none."""

    step: str


class LaunchStep(Effect, frozen=True, kw_only=True):
    """Start the attempt, or take it up again if it is known; answered by `StepStarted`, `StepFinished`."""

    step: str
    attempt: int


class KillStep(Effect, frozen=True, kw_only=True):
    """Stop the attempt; answered by `StepFinished`, however it ended."""

    step: str
    attempt: int
    ending: Ending


class FinishRun(Effect, frozen=True, kw_only=True):
    """The run reached a final state."""


AnyEffect = PinCodesets | RequestSlot | ReleaseSlot | LaunchStep | KillStep | FinishRun
