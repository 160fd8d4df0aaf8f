"""What a requirement would be resolved to, and why, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from fusemld.model.extension import ResolvedService, Selectors
from fusemld.model.template import NAME_LENGTH, Reference, Template, Value, limited, render
from fusemld.model.workflow import Requirement, Workflow
from fusemld.registry.matching import Match, NearMiss

SELECTORS = ("extension_id", "service_id", "product", "version", "zone", "service_resource", "service_category")


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """`source` is `record`, or `resolver NAME` for what a plugin would give access to.

    `unknown` are selectors whose expressions have no value yet; the outcome is that of all others.
    `alternatives` match as well and come after `service`; `message` says it in one sentence.
    """

    step: str
    requirement: str
    selectors: dict[str, str]
    service: ResolvedService | None = None
    source: str = ""
    alternatives: tuple[ResolvedService, ...] = ()
    near_misses: tuple[NearMiss, ...] = ()
    unknown: tuple[str, ...] = ()
    message: str


class KnownSelectors(msgspec.Struct, frozen=True, kw_only=True):
    selectors: Selectors
    unknown: tuple[str, ...] = ()


class _UnknownValueError(Exception):
    pass


def known_selectors(requirement: Requirement, workflow: Workflow, inputs: Mapping[str, str]) -> KnownSelectors:
    """The selectors as far as they can be rendered from `inputs` and defaults; the rest is left open. An empty one
    is none, as in a run. Raises `InvalidInputError` for one that is too long."""
    values = {entry.name: entry.default for entry in workflow.inputs if entry.default is not None} | dict(inputs)

    def lookup(reference: Reference) -> Value:
        match reference.path:
            case ("inputs", name) if name in values:
                return Value(values[name])
            case ("workflow", "name"):
                return Value(workflow.name)
            case _:
                raise _UnknownValueError

    known: dict[str, str] = {}
    unknown: list[str] = []
    for selector in SELECTORS:
        template: Template | None = getattr(requirement, selector)
        if template is None:
            continue
        try:
            text = render(template, limited(lookup, NAME_LENGTH)).text
        except _UnknownValueError:
            unknown.append(selector)
            continue
        if text:
            known[selector] = text
    return KnownSelectors(selectors=Selectors(name=requirement.name, **known), unknown=tuple(unknown))


def wanted(selectors: Selectors) -> dict[str, str]:
    """The selectors that are set."""
    pairs = ((selector, getattr(selectors, selector)) for selector in SELECTORS)
    return {selector: value for selector, value in pairs if value is not None}


def failure(selectors: Selectors, found: Match, unknown: Sequence[str] = ()) -> str:
    """Why nothing was picked, each refusal with its remedy."""
    asked = [f"{selector} {value!r}" for selector, value in wanted(selectors).items()]
    asked += [f"{selector} not known yet" for selector in unknown]
    start = f"cannot resolve the extension {selectors.name!r} ({', '.join(asked) or 'any service'})"
    if not found.near_misses:
        return (
            f"{start}: no record of the Extension Registry and no plugin offers it; "
            "drop an extension record into the watched folder, or mend the selectors"
        )
    refusals = "; ".join(str(miss) for miss in found.near_misses)
    return f"{start}: nothing matches, near are {refusals}"
