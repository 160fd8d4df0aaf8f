"""Which runs a document asks for now, or what keeps it waiting, or why it can never run; pure."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
from collections.abc import Iterable, Mapping

import msgspec

from fusemld.engine.values import codeset_references
from fusemld.model.codeset import DEFAULT_PROJECT, CodesetReference, nearest_key, parse_reference
from fusemld.model.document import Assignment, Document, DocumentState, RunRequest
from fusemld.model.errors import InvalidInputError
from fusemld.model.problem import Problem
from fusemld.model.workflow import InputType, Workflow
from fusemld.spec.values import value_complaint


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force: workflows by name, codesets by `project/name`."""

    workflows: Mapping[str, Document]
    codesets: Mapping[str, Document]


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """A run that can start now. `inputs` are all values, defaults included; `codesets` what the run will mount,
    as far as that is known before it starts. `reference` is set for the run of an assignment: its codeset."""

    workflow: Document
    inputs: dict[str, str]
    codesets: tuple[CodesetReference, ...] = ()
    executor: str | None = None
    reference: str = ""

    @property
    def project(self) -> str:
        return self.codesets[0].project if self.codesets else DEFAULT_PROJECT


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`lacking` are the codesets, by `project/name`, that it waits for."""

    state: DocumentState = DocumentState.ACCEPTED
    detail: str = ""
    problems: tuple[Problem, ...] = ()
    starts: tuple[Start, ...] = ()
    lacking: tuple[str, ...] = ()


class InputValues(msgspec.Struct, frozen=True, kw_only=True):
    """`values` has every input that has one; `problems` are messages for people by input, `missing` names."""

    values: dict[str, str]
    missing: tuple[str, ...] = ()
    problems: dict[str, str] = {}


def resolve_inputs(workflow: Workflow, given: Mapping[str, str]) -> InputValues:
    """Take the given values and the defaults together, and check that each fits its input."""
    declared = {entry.name: entry for entry in workflow.inputs}
    problems = {
        name: f"workflow {workflow.name!r} has no input {name!r}{_hint(name, declared)}"
        for name in given
        if name not in declared
    }
    values: dict[str, str] = {}
    missing: list[str] = []
    for entry in workflow.inputs:
        value = given.get(entry.name, entry.default)
        if value is None:
            missing.append(entry.name)
            continue
        values[entry.name] = value
        complaint = value_complaint(entry.type, value)
        if complaint:
            problems[entry.name] = f"input {entry.name!r}: {complaint}"
    return InputValues(values=values, missing=tuple(missing), problems=problems)


def judge(document: Document, registered: Registered) -> Verdict:
    """What `document` asks for, given everything that is in force. Whether it has had its run already is not the
    question here."""
    try:
        match document.declared:
            case Workflow():
                return _workflow(document, document.declared, registered)
            case RunRequest():
                return _request(document, document.declared, registered)
            case Assignment():
                return _assignment(document, document.declared, registered)
            case _:
                return Verdict()
    except InvalidInputError as error:
        return _rejected(document, {"": str(error)})


def terms(assignment: Assignment) -> str:
    """A short digest of all that an assignment asks for, but for the list of codesets: naming one more codeset
    does not run the others again."""
    text = msgspec.json.encode([assignment.workflow, assignment.input, sorted(assignment.inputs.items())])
    return hashlib.sha256(text).hexdigest()[:12]


def needed(workflow: Workflow, values: Mapping[str, str]) -> tuple[CodesetReference, ...]:
    """The codesets of a run with these input values, in order: those of its codeset inputs, and what the
    steps mount as far as inputs tell. What only an output can name is not known before its step ended. Raises
    `InvalidInputError` for a name that is too long."""
    inputs = [
        values[entry.name] for entry in workflow.inputs if entry.type is InputType.CODESET and entry.name in values
    ]
    found: dict[str, CodesetReference] = {}
    for text in (*inputs, *codeset_references(values, workflow)):
        with contextlib.suppress(ValueError):
            reference = parse_reference(text)
            found.setdefault(str(reference), reference)
    return tuple(found.values())


def _workflow(document: Document, workflow: Workflow, registered: Registered) -> Verdict:
    inputs = resolve_inputs(workflow, {})
    if inputs.missing:
        return Verdict(detail=f"runs on request: needs {', '.join(inputs.missing)}")
    return _ready(document, workflow, inputs, registered)


def _request(document: Document, request: RunRequest, registered: Registered) -> Verdict:
    found = registered.workflows.get(request.workflow)
    if found is None or not isinstance(found.declared, Workflow):
        return _waiting([f"workflow {request.workflow}{_maybe(_nearest(request.workflow, registered.workflows))}"])
    workflow = found.declared
    inputs = resolve_inputs(workflow, request.inputs)
    problems = {**inputs.problems, **_lacking(workflow, inputs.missing)}
    if problems:
        return _rejected(document, problems)
    return _ready(found, workflow, inputs, registered, executor=request.executor)


def _assignment(document: Document, assignment: Assignment, registered: Registered) -> Verdict:
    found = registered.workflows.get(assignment.workflow)
    if found is None or not isinstance(found.declared, Workflow):
        return _waiting(
            [f"workflow {assignment.workflow}{_maybe(_nearest(assignment.workflow, registered.workflows))}"]
        )
    workflow = found.declared
    target, problem = _target(workflow, assignment)
    if problem:
        return _rejected(document, {assignment.input or "": problem})
    starts: list[Start] = []
    lacking: list[str] = []
    for reference in assignment.codesets:
        inputs = resolve_inputs(workflow, {**assignment.inputs, target: str(reference)})
        problems = {**inputs.problems, **_lacking(workflow, inputs.missing)}
        if problems:
            return _rejected(document, problems)
        ready = _ready(found, workflow, inputs, registered, reference=str(reference))
        starts += ready.starts
        lacking += [] if ready.starts else [ready.detail.removeprefix("waiting for ")]
    if not lacking:
        return Verdict(starts=tuple(starts))
    return msgspec.structs.replace(_waiting(lacking), starts=tuple(starts))


def _target(workflow: Workflow, assignment: Assignment) -> tuple[str, str]:
    """The input that takes the codeset, or what is wrong."""
    candidates = [entry.name for entry in workflow.inputs if entry.type is InputType.CODESET]
    if assignment.input is not None:
        if assignment.input in candidates:
            return assignment.input, ""
        hint = _hint(assignment.input, candidates)
        return "", f"workflow {workflow.name!r} has no codeset input {assignment.input!r}{hint}"
    free = [name for name in candidates if name not in assignment.inputs]
    if len(free) == 1:
        return free[0], ""
    if not free:
        return "", f"workflow {workflow.name!r} has no codeset input that an assignment could set"
    return "", f"workflow {workflow.name!r} has several codeset inputs ({', '.join(free)}): name one with `input:`"


def _ready(
    found: Document,
    workflow: Workflow,
    inputs: InputValues,
    registered: Registered,
    *,
    executor: str | None = None,
    reference: str = "",
) -> Verdict:
    codesets = needed(workflow, inputs.values)
    keys = (f"{reference.project}/{reference.name}" for reference in codesets)
    if lacking := tuple(key for key in keys if key not in registered.codesets):
        waiting = _waiting(f"codeset {key}{_maybe(nearest_key(key, registered.codesets))}" for key in lacking)
        return msgspec.structs.replace(waiting, lacking=lacking)
    start = Start(workflow=found, inputs=inputs.values, codesets=codesets, executor=executor, reference=reference)
    return Verdict(starts=(start,))


def _waiting(things: Iterable[str]) -> Verdict:
    return Verdict(state=DocumentState.WAITING, detail="waiting for " + ", ".join(dict.fromkeys(things)))


def _rejected(document: Document, messages: Mapping[str, str]) -> Verdict:
    """`messages` by the input that they are about."""
    problems = tuple(document.problem(message, "inputs", name) for name, message in messages.items())
    return Verdict(state=DocumentState.REJECTED, detail=problems[0].message, problems=problems)


def _lacking(workflow: Workflow, missing: Iterable[str]) -> dict[str, str]:
    types = {entry.name: entry.type for entry in workflow.inputs}
    return {
        name: f"workflow {workflow.name!r} needs a value for its input {name!r} ({types[name]})"
        for name in missing
    }


def _nearest(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def _maybe(nearest: str | None) -> str:
    """What waits may have been mistyped."""
    return f" (did you mean {nearest!r}?)" if nearest else ""


def _hint(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f": did you mean {near[0]!r}?"
    return f" (it has {', '.join(names)})" if names else ""
