"""Whether a step has the inputs that the plugin which claims its image knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

import msgspec

from fusemld.hooks.steps import StepInputs
from fusemld.model.errors import InvalidInputError
from fusemld.model.workflow import Step


class InputProblem(msgspec.Struct, frozen=True, kw_only=True):
    """`name` is the input's."""

    name: str
    message: str


def input_problems(step: Step, known: StepInputs) -> Iterator[InputProblem]:
    """Unknown and missing inputs."""
    given = _given(step)
    names = known.required | known.optional | known.ignored.keys()
    for name in sorted(given - names) if not known.open else ():
        near = difflib.get_close_matches(name, names, n=1)
        hint = f": did you mean {near[0]!r}?" if near else f" (it knows: {', '.join(sorted(names)) or 'none'})"
        yield InputProblem(name=name, message=f"step {step.name!r} does not know the input {name!r}{hint}")
    empty = {entry.name for entry in step.inputs if not entry.has_value}
    for name in sorted(known.required - given):
        what = "has no value: give it one" if name in empty else "is missing: add it under 'inputs'"
        yield InputProblem(name=name, message=f"step {step.name!r}: the input {name!r} {what}")


def check_inputs(step: Step, known: StepInputs) -> list[str]:
    """Warnings about ignored inputs. Raises `InvalidInputError` for unknown and missing ones."""
    for problem in input_problems(step, known):
        raise InvalidInputError(f"cannot run {problem.message}")
    ignored = sorted(_given(step) & known.ignored.keys())
    return [f"input {name!r} is ignored: {known.ignored[name]}" for name in ignored]


def _given(step: Step) -> set[str]:
    return {entry.name for entry in step.inputs if entry.value is not None}
