"""What a step sees: the values of its expressions and its environment (design section 4); pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from fusemld.engine.values import run_lookup
from fusemld.model.errors import StartError
from fusemld.model.extension import Selectors, ServiceAccess
from fusemld.model.run import Run
from fusemld.model.template import NAME_LENGTH, Lookup, Reference, Template, Value, limited, render
from fusemld.model.workflow import Requirement, Step
from fusemld.registry.credentials import merge_configurations

NAMESPACE = "fuseml-workloads"
"""What the reference's step images find in `FUSEML_ENV_WORKFLOW_NAMESPACE`."""

SECRETS_LENGTH = 256 * 1024
"""In characters, of what the expressions of a step put together with credentials: all that the step prints, and
all that is said of it, is searched for every line of that."""

_NOT_IN_NAMES = re.compile(r"[-.]")


class StepVariables(msgspec.Struct, frozen=True, kw_only=True):
    """The environment of an attempt in two parts, the second of which is secret, what must be masked, and the
    values of `input_values`."""

    env: dict[str, str]
    secret_env: dict[str, str]
    secrets: frozenset[str]
    warnings: tuple[str, ...]
    inputs: dict[str, Value]

    def __repr__(self) -> str:
        return f"StepVariables(<{len(self.env) + len(self.secret_env)} variables>)"


def variable(name: str) -> str:
    """The environment variable of the input `name`."""
    return "FUSEML_" + _NOT_IN_NAMES.sub("_", name).upper()


def selectors(requirement: Requirement, run: Run) -> Selectors:
    """The requirement with its expressions rendered; an empty selector is none. Raises `InvalidInputError` for one
    that is too long."""
    value = run_lookup(run)

    def text(template: Template | None) -> str | None:
        return None if template is None else render(template, limited(value, NAME_LENGTH)).text or None

    return Selectors(
        name=requirement.name,
        extension_id=text(requirement.extension_id),
        service_id=text(requirement.service_id),
        product=text(requirement.product),
        version=text(requirement.version),
        zone=text(requirement.zone),
        service_resource=text(requirement.service_resource),
        service_category=text(requirement.service_category),
    )


def lookup(run: Run, access: Mapping[str, ServiceAccess]) -> Lookup:
    """Values of every reference that a step may use; `StartError` for a configuration value that is not there."""

    def extension(reference: Reference) -> Value:
        name, field = reference.path[1:3]
        resolved = access[name]
        if field != "cfg":
            return Value(getattr(resolved.service, field))
        key = reference.path[3]
        if key not in resolved.configuration:
            known = ", ".join(sorted(resolved.configuration)) or "none"
            raise StartError(
                f"cannot use {reference}: {resolved.service.extension_id}/{resolved.service.service_id} "
                f"has no configuration value {key!r} (it has: {known})"
            )
        return Value(resolved.configuration[key], secret=key in resolved.secret_keys)

    return run_lookup(run, extension)


def public(template: Template, value: Lookup, place: str) -> str:
    """A string that will be seen by others; `StartError` if it took in a credential."""
    rendered = render(template, value)
    if rendered.secret:
        raise StartError(
            f"cannot use {template} in {place}: it holds a value from credentials; hand it over in env or an input"
        )
    return rendered.text


def input_values(step: Step, value: Lookup) -> dict[str, Value]:
    """Every input with a value by name; of a codeset input the reference."""
    values: dict[str, Value] = {}
    for entry in step.inputs:
        template = entry.codeset.name if entry.codeset is not None else entry.value
        if template is not None:
            values[entry.name] = render(template, value)
    return values


def step_variables(run: Run, step: Step, access: Mapping[str, ServiceAccess], value: Lookup) -> StepVariables:
    """Design section 4, in its order: what comes later wins."""
    codesets = {entry.name for entry in step.inputs if entry.codeset is not None}
    inputs = input_values(step, value)
    values = {variable(name): text for name, text in inputs.items() if name not in codesets}
    if step.outputs:
        values["TASK_RESULT"] = Value(step.outputs[0].name)
    values["FUSEML_ENV_WORKFLOW_NAME"] = Value(run.workflow)
    values["FUSEML_ENV_WORKFLOW_NAMESPACE"] = Value(NAMESPACE)
    values["FUSEML_ENV_RUN_ID"] = Value(run.id)
    merged = merge_configurations(access.values())
    values |= {key: Value(text) for key, text in merged.plain.items()}
    values |= {key: Value(text, secret=True) for key, text in merged.secret.items()}
    for entry in step.env:
        values[entry.name] = render(entry.value, value)
    for name, rendered in values.items():
        if not name or "=" in name or "\0" in name:
            raise StartError(f"cannot set {name!r}: an environment variable cannot have that name")
        if "\0" in rendered.text:
            raise StartError(f"cannot set {name}: a NUL byte cannot be in an environment variable")
    secrets = {resolved.configuration[key] for resolved in access.values() for key in resolved.secret_keys}
    left = SECRETS_LENGTH
    for name, text in values.items():
        if text.secret and text.text not in secrets:
            left -= len(text.text)
            secrets.add(text.text)
        if left < 0:
            raise StartError(
                f"cannot set {name}: with it, what is put together with credentials has more than the "
                f"{SECRETS_LENGTH:,} characters together that are allowed"
            )
    return StepVariables(
        env={name: text.text for name, text in values.items() if not text.secret},
        secret_env={name: text.text for name, text in values.items() if text.secret},
        secrets=frozenset(secrets - {""}),
        warnings=merged.warnings,
        inputs=inputs,
    )
