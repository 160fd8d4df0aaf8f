"""`{{ references }}` in text: found, resolved against the declared names, and made a template.

Names may contain dots, so what a reference means depends on what is declared: the longest declared name wins.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from fusemld.model.template import Reference, Template
from fusemld.model.workflow import InputType
from fusemld.spec.leaves import shown_name

CODESET_FIELDS: Final = ("name", "project", "version", "url")
EXTENSION_FIELDS: Final = ("url", "product", "version", "zone", "service_resource", "service_category")
MAX_PROBLEMS: Final = 20
_ROOTS: Final = ("inputs", "steps", "extensions", "workflow", "run")


def _no_suggestion(name: str, known: Collection[str]) -> str:  # noqa: ARG001
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What the references of a text may name.

    `steps` maps every step to its outputs. `extensions` are the requirements of the text's own step;
    `no_extensions` says why none can be named at all. `suggest` makes `: did you mean 'x'?` or nothing.
    """

    inputs: Mapping[str, InputType] = field(default_factory=dict)
    steps: Mapping[str, frozenset[str]] = field(default_factory=dict)
    extensions: frozenset[str] = frozenset()
    no_extensions: str | None = None
    no_steps: str | None = None
    suggest: Callable[[str, Collection[str]], str] = _no_suggestion


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedText:
    """`problems` are messages with the index in the text that they are about; `starts` the index of
    every reference of the template."""

    template: Template
    starts: tuple[int, ...] = ()
    problems: tuple[tuple[int, str], ...] = ()


class _UnknownReferenceError(Exception):
    pass


def parse_template(text: str, scope: Scope) -> ParsedText:
    """Never raises. What cannot be resolved is left out of the template and reported, up to `MAX_PROBLEMS`."""
    parts: list[str | Reference] = []
    starts: list[int] = []
    problems: list[tuple[int, str]] = []
    position = 0
    while (opening := text.find("{{", position)) >= 0 and len(problems) < MAX_PROBLEMS:
        _append(parts, text[position:opening])
        closing = text.find("}}", opening + 2)
        if closing < 0:
            problems.append((opening, "'{{' is never closed: add '}}' after the reference"))
            return ParsedText(template=Template(tuple(parts)), starts=tuple(starts), problems=tuple(problems))
        inner = text[opening + 2 : closing]
        start = opening + 2 + len(inner) - len(inner.lstrip())
        try:
            parts.append(_resolve(inner.strip(), scope))
            starts.append(start)
        except _UnknownReferenceError as unknown:
            problems.append((start, str(unknown)))
        position = closing + 2
    _append(parts, text[position:])
    return ParsedText(template=Template(tuple(parts)), starts=tuple(starts), problems=tuple(problems))


def _append(parts: list[str | Reference], text: str) -> None:
    if not text:
        return
    if parts and isinstance(parts[-1], str):
        parts[-1] += text
    else:
        parts.append(text)


def _resolve(reference: str, scope: Scope) -> Reference:
    root, _, rest = reference.partition(".")
    match root:
        case "":
            raise _UnknownReferenceError("the expression is empty: write a reference such as {{ inputs.NAME }}")
        case "inputs":
            return _input(rest, scope)
        case "steps":
            return _step_output(rest, scope)
        case "extensions" | "extension":
            return _extension(rest, scope)
        case "workflow" if rest == "name":
            return Reference(("workflow", "name"))
        case "run" if rest == "id":
            return Reference(("run", "id"))
        case "workflow" | "run":
            known = "workflow.name" if root == "workflow" else "run.id"
            raise _UnknownReferenceError(f"unknown reference {_shown(reference)}: only {{{{ {known} }}}} exists")
        case _:
            remedy = scope.suggest(root, _ROOTS)
            remedy = remedy or ": a reference starts with inputs, steps, extensions, workflow.name or run.id"
            raise _UnknownReferenceError(f"unknown reference {_shown(reference)}{remedy}")


def _input(rest: str, scope: Scope) -> Reference:
    if rest in scope.inputs:
        return Reference(("inputs", rest))
    name, dot, field_name = rest.rpartition(".")
    if dot and name in scope.inputs:
        if scope.inputs[name] is not InputType.CODESET:
            raise _UnknownReferenceError(
                f"input {name!r} is of type {scope.inputs[name].value} and has no {_shown(field_name)}: "
                f"write {{{{ inputs.{name} }}}}, or declare it with type: codeset"
            )
        if field_name not in CODESET_FIELDS:
            remedy = scope.suggest(field_name, CODESET_FIELDS) or f": it has {', '.join(CODESET_FIELDS)}"
            raise _UnknownReferenceError(f"the codeset input {name!r} has no {_shown(field_name)}{remedy}")
        return Reference(("inputs", name, field_name))
    shown = name if dot and field_name in CODESET_FIELDS else rest
    if not shown:
        raise _UnknownReferenceError("the reference names no input: write {{ inputs.NAME }}")
    remedy = scope.suggest(shown, scope.inputs) or ": declare it under the workflow's 'inputs'"
    raise _UnknownReferenceError(f"unknown input {_shown(shown)}{remedy}")


def _step_output(rest: str, scope: Scope) -> Reference:
    splits = _splits(rest, ".outputs.")
    if scope.no_steps is not None:
        raise _UnknownReferenceError(scope.no_steps)
    if not splits:
        raise _UnknownReferenceError(
            f"incomplete reference {_shown('steps.' + rest)}: write {{{{ steps.STEP.outputs.NAME }}}}"
        )
    known = [(step, output) for step, output in splits if step in scope.steps]
    for step, output in known:
        if output in scope.steps[step]:
            return Reference(("steps", step, "outputs", output))
    if not known:
        step, _ = splits[0]
        remedy = scope.suggest(step, scope.steps) or f": the steps are {_listed(scope.steps)}"
        raise _UnknownReferenceError(f"unknown step {_shown(step)}{remedy}")
    step, output = known[-1]
    outputs = scope.steps[step]
    remedy = (
        scope.suggest(output, outputs) or f": declare it under the step's 'outputs' (it has {_listed(outputs)})"
    )
    raise _UnknownReferenceError(f"step {step!r} declares no output {_shown(output)}{remedy}")


def _extension(rest: str, scope: Scope) -> Reference:
    if scope.no_extensions is not None:
        raise _UnknownReferenceError(scope.no_extensions)
    splits = _splits(rest, ".cfg.")
    for name, key in splits:
        if name in scope.extensions:
            return Reference(("extensions", name, "cfg", key))
    name, dot, field_name = rest.rpartition(".")
    if dot and name in scope.extensions:
        if field_name in EXTENSION_FIELDS:
            return Reference(("extensions", name, field_name))
        remedy = scope.suggest(field_name, EXTENSION_FIELDS) or (
            f": it has {', '.join(EXTENSION_FIELDS)}, "
            f"and configuration values at {{{{ extensions.{name}.cfg.KEY }}}}"
        )
        raise _UnknownReferenceError(f"unknown field {_shown(field_name)} of the extension {name!r}{remedy}")
    if rest in scope.extensions or rest.removesuffix(".cfg") in scope.extensions:
        raise _UnknownReferenceError(
            f"incomplete reference {_shown('extensions.' + rest)}: add a field such as .url, or .cfg.KEY"
        )
    shown = splits[0][0] if splits else name or rest
    remedy = scope.suggest(shown, scope.extensions) or ": list it under the step's 'extensions'"
    raise _UnknownReferenceError(f"the step requires no extension {_shown(shown)}{remedy}")


def _splits(text: str, separator: str) -> list[tuple[str, str]]:
    """Every way to split the text in two at the separator, both sides non-empty, the shortest left side first."""
    found: list[tuple[str, str]] = []
    index = text.find(separator)
    while index >= 0 and len(found) < 100:
        if text[:index] and text[index + len(separator) :]:
            found.append((text[:index], text[index + len(separator) :]))
        index = text.find(separator, index + 1)
    return found


def _listed(names: Iterable[str]) -> str:
    shown = [shown_name(name) for name in sorted(names) if name]
    return (", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")) or "none"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
