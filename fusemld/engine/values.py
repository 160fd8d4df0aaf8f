"""What the references of a workflow stand for in a run."""

from __future__ import annotations

from collections.abc import Mapping

from fusemld.engine.plan import Plan
from fusemld.model.codeset import PinnedCodeset, parse_reference
from fusemld.model.errors import InvalidInputError
from fusemld.model.run import Run, are_long
from fusemld.model.template import NAME_LENGTH, Lookup, Reference, Template, Value, limited, render
from fusemld.model.workflow import Workflow

VALUES_LENGTH = 64 * 1024 * 1024
"""In characters, of all values together that are put into what is made at once: as much as one step may hand over.
A file that fits on a page can ask for more than any memory has."""
STORED_LENGTH = 1024 * 1024
"""Of those in outputs of a run that are not long outputs of a step as they are: they are in the database."""


def run_lookup(run: Run, extensions: Lookup | None = None) -> Lookup:
    """Values of `inputs`, `steps`, `workflow` and `run` references; those of `extensions` come from `extensions`.

    The lookup raises `InvalidInputError` for a value that the run does not have (yet), and for the one that goes
    beyond `VALUES_LENGTH`.
    """

    def lookup(reference: Reference) -> Value:
        match reference.path:
            case ("inputs", name) if name in run.inputs:
                return Value(run.inputs[name])
            case ("inputs", name, field) if name in run.inputs:
                return Value(_codeset_field(run.codesets or {}, run.inputs[name], field, reference))
            case ("steps", step, "outputs", name) if step in run.steps and name in run.steps[step].outputs:
                return Value(run.steps[step].outputs[name])
            case ("workflow", "name"):
                return Value(run.workflow)
            case ("run", "id"):
                return Value(run.id)
            case ("extensions", *_) if extensions is not None:
                return extensions(reference)
            case _:
                raise InvalidInputError(f"cannot render {reference}: run {run.id} has no such value")

    return limited(lookup, VALUES_LENGTH)


def codeset_references(inputs: Mapping[str, str], workflow: Workflow) -> tuple[str, ...]:
    """The texts of the codeset references to pin before the first step of a run with these inputs starts.

    They are the mounts' names, which the language builds of what is known before the first step, and the codeset
    inputs of which a field is referenced. Raises `InvalidInputError` for a name that is too long.
    """
    found: dict[str, None] = {}

    def lookup(reference: Reference) -> Value:
        match reference.path:
            case ("inputs", name) if name in inputs:
                return Value(inputs[name])
            case ("inputs", name, ("name" | "project") as field) if name in inputs:
                return Value(str(getattr(parse_reference(inputs[name]), field)))
            case ("workflow", "name"):
                return Value(workflow.name)
            case _:
                raise InvalidInputError(f"cannot render {reference}: there is no such value")

    def scan(template: Template) -> None:
        for reference in template.references:
            if reference.path[0] == "inputs" and len(reference.path) == 3 and reference.path[1] in inputs:
                found[inputs[reference.path[1]]] = None

    for step in workflow.steps:
        for entry in step.inputs:
            if entry.codeset is not None:
                found[render(entry.codeset.name, limited(lookup, NAME_LENGTH)).text] = None
        for template in step.templates:
            scan(template)
    for output in workflow.outputs:
        if output.value is not None:
            scan(output.value)
    return tuple(found)


def workflow_outputs(run: Run, plan: Plan) -> dict[str, str]:
    """The outputs of a run whose steps have all succeeded. Raises `InvalidInputError` where a value is missing,
    and where they are too long."""
    lookup = run_lookup(run)
    stored = limited(lookup, STORED_LENGTH)
    outputs: dict[str, str] = {}
    for output in plan.workflow.outputs:
        value = output.value
        if value is None and (step := plan.output_steps.get(output.name)) is not None:
            value = Template((Reference(("steps", step, "outputs", output.name)),))
        if value is not None:
            try:
                outputs[output.name] = render(value, lookup if _is_long_output(value, run) else stored).text
            except InvalidInputError as error:
                raise InvalidInputError(f"output {output.name!r}: {error}") from error
    return outputs


def _is_long_output(value: Template, run: Run) -> bool:
    """Whether it is one of a step that has long ones, as it is: these are in a file as a rule."""
    match value.parts:
        case (Reference(("steps", step, "outputs", _)),) if step in run.steps:
            return are_long(run.steps[step].outputs)
        case _:
            return False


def _codeset_field(pins: Mapping[str, PinnedCodeset], text: str, field: str, reference: Reference) -> str:
    pin = pins.get(text)
    if pin is None:
        raise InvalidInputError(f"cannot render {reference}: codeset {text!r} is not pinned")
    match field:
        case "name":
            return pin.name
        case "project":
            return pin.project
        case "version":
            return pin.version
        case "url":
            return pin.url
        case _:
            raise InvalidInputError(f"cannot render {reference}: a codeset has no field {field!r}")
