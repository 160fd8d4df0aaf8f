"""A workflow as it was written: names, templates and structure, all defaults still visible as None."""

from __future__ import annotations

import enum

import msgspec

from fusemld.model.template import Template


class InputType(enum.StrEnum):
    STRING = "string"
    CODESET = "codeset"
    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    PATH = "path"


class Order(enum.StrEnum):
    """`dag`: steps wait for what they reference; `listed`: each step waits for the one above it."""

    DAG = "dag"
    LISTED = "listed"


class WorkflowInput(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    description: str = ""
    type: InputType = InputType.STRING
    default: str | None = None
    labels: tuple[str, ...] = ()


class WorkflowOutput(msgspec.Struct, frozen=True, kw_only=True):
    """Without `value` it takes the output of the same name of the last listed step that declares it."""

    name: str
    description: str = ""
    type: InputType = InputType.STRING
    value: Template | None = None


class CodesetMount(msgspec.Struct, frozen=True, kw_only=True):
    """The codeset whose reference `name` renders to, seen by the step at `path` (absolute)."""

    name: Template
    path: str


class StepInput(msgspec.Struct, frozen=True, kw_only=True):
    """Either a `value` or a `codeset`; with neither it is as if it were not there."""

    name: str
    value: Template | None = None
    codeset: CodesetMount | None = None

    @property
    def has_value(self) -> bool:
        return self.value is not None or self.codeset is not None


class OutputImage(msgspec.Struct, frozen=True, kw_only=True):
    name: Template
    dockerfile: Template


class StepOutput(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    image: OutputImage | None = None


class Requirement(msgspec.Struct, frozen=True, kw_only=True):
    """What a step asks of the Extension Registry; every selector that is set must agree."""

    name: str
    extension_id: Template | None = None
    service_id: Template | None = None
    product: Template | None = None
    version: Template | None = None
    zone: Template | None = None
    service_resource: Template | None = None
    service_category: Template | None = None


class EnvVar(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    value: Template


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """Kubernetes quantities by resource name."""

    requests: dict[str, Template] = {}
    limits: dict[str, Template] = {}


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """Up to `limit` more attempts; the n-th waits `backoff_s * 2**(n-1)`, at most `max_backoff_s`."""

    limit: int
    backoff_s: float = 10.0
    max_backoff_s: float = 600.0


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """`needs` is None where the document has none, `()` where it says `needs: []`."""

    name: str
    image: Template
    inputs: tuple[StepInput, ...] = ()
    outputs: tuple[StepOutput, ...] = ()
    extensions: tuple[Requirement, ...] = ()
    env: tuple[EnvVar, ...] = ()
    resources: Resources = Resources()
    needs: tuple[str, ...] | None = None
    retry: Retry | None = None
    timeout_s: float | None = None
    command: tuple[Template, ...] | None = None
    args: tuple[Template, ...] | None = None

    @property
    def templates(self) -> tuple[Template, ...]:
        """Every template of the step."""
        found = [self.image, *(self.command or ()), *(self.args or ()), *(var.value for var in self.env)]
        for entry in self.inputs:
            found += [] if entry.value is None else [entry.value]
            found += [] if entry.codeset is None else [entry.codeset.name]
        for output in self.outputs:
            found += [] if output.image is None else [output.image.name, output.image.dockerfile]
        for requirement in self.extensions:
            selectors = (getattr(requirement, field) for field in requirement.__struct_fields__[1:])
            found += [selector for selector in selectors if selector is not None]
        found += [*self.resources.requests.values(), *self.resources.limits.values()]
        return tuple(found)


class Workflow(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    description: str = ""
    inputs: tuple[WorkflowInput, ...] = ()
    outputs: tuple[WorkflowOutput, ...] = ()
    steps: tuple[Step, ...]
    executor: str | None = None
    order: Order = Order.DAG


class CredentialRisk(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration value of an extension, used where a secret must not be: in `place` (`image`, `command`,
    `args`, `outputs`, `resources`) of a step. Refused where `key` may come from credentials.

    The line and column are those of the expression in its file, 1 where that is not known.
    """

    step: str
    place: str
    requirement: str
    key: str
    line: int = 1
    column: int = 1
