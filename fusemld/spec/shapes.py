"""The documents as users write them: what the reader reads, and what the JSON Schema for editors is made of.

Class docstrings and the descriptions of fields are shown to users. `noun` is what messages call the thing,
`example` is what they advise to write where something else stands in its place.
"""

from __future__ import annotations

from typing import Annotated, ClassVar
from typing import Literal as OneOf

import msgspec

from fusemld.model.extension import EndpointType, Scope
from fusemld.model.workflow import InputType, Order
from fusemld.spec.leaves import (
    Duration,
    Expression,
    Later,
    Literal,
    MountPath,
    Name,
    ReadOnly,
    Text,
    VariableName,
)


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    noun: ClassVar[str]
    example: ClassVar[str] = ""


def _says(description: str) -> msgspec.Meta:
    return msgspec.Meta(description=description)


class WorkflowInputShape(Shape, frozen=True, kw_only=True):
    """A value that a run of the workflow is given."""

    noun = "a workflow input"

    name: Annotated[Name, _says("How expressions refer to it: {{ inputs.NAME }}.")]
    description: Annotated[Text | None, _says("For people.")] = None
    type: Annotated[InputType, _says("What values are accepted; string where absent.")] = InputType.STRING
    default: Annotated[Literal | None, _says("The value where a run gives none.")] = None
    labels: Annotated[tuple[Literal, ...], _says("Free words, for people.")] = ()


class WorkflowOutputShape(Shape, frozen=True, kw_only=True):
    """A value that a run of the workflow leaves behind."""

    noun = "a workflow output"

    name: Annotated[Name, _says("Without `value`, the step output of this name is taken.")]
    description: Annotated[Text | None, _says("For people.")] = None
    type: Annotated[InputType, _says("What kind of value it is; string where absent.")] = InputType.STRING
    value: Annotated[Expression | None, _says("Where the value comes from.")] = None


class CodesetMountShape(Shape, frozen=True, kw_only=True):
    """The files of a codeset, seen by the step in a folder."""

    noun = "a codeset of a step input"
    example = 'codeset: {name: "{{ inputs.NAME }}"}'

    name: Annotated[Expression, _says('The codeset, usually "{{ inputs.NAME }}" of a workflow input.')]
    path: Annotated[MountPath | None, _says("The folder in the step; /project where absent.")] = None


class StepInputShape(Shape, frozen=True, kw_only=True):
    """A value that the step sees as FUSEML_NAME, or the files of a codeset. With neither the step sees nothing."""

    noun = "a step input"

    name: Annotated[Name, _says("The name that the step's image expects.")]
    value: Annotated[Expression | None, _says("The value.")] = None
    codeset: Annotated[CodesetMountShape | None, _says("A codeset instead of a value.")] = None


class OutputImageShape(Shape, frozen=True, kw_only=True):
    """The step leaves a Dockerfile; the image that is built from it is the output."""

    noun = "an output image"

    name: Annotated[Expression, _says("The name of the image, with its registry.")]
    dockerfile: Annotated[Expression | None, _says("Path of the Dockerfile in the step.")] = None


class StepOutputShape(Shape, frozen=True, kw_only=True):
    """A value that the step leaves for others."""

    noun = "a step output"

    name: Annotated[Name, _says("How expressions refer to it: {{ steps.STEP.outputs.NAME }}.")]
    image: Annotated[OutputImageShape | None, _says("The output is an image that is built.")] = None


class RequirementShape(Shape, frozen=True, kw_only=True):
    """A service of the Extension Registry that the step needs. Every selector that is set must agree; where none
    is, any service does."""

    noun = "an extension of a step"

    name: Annotated[Name, _says("How expressions of the step refer to it: {{ extensions.NAME.url }}.")]
    extension_id: Annotated[Expression | None, _says("The id of the record.")] = None
    service_id: Annotated[Expression | None, _says("The id of the service.")] = None
    product: Annotated[Expression | None, _says("The product, such as mlflow.")] = None
    version: Annotated[Expression | None, _says("A version, or a constraint such as >=1.0,<1.5.")] = None
    zone: Annotated[Expression | None, _says("Look from this zone instead of the executor's.")] = None
    service_resource: Annotated[Expression | None, _says("The resource, such as s3 or mlflow-tracking.")] = None
    service_category: Annotated[Expression | None, _says("The category of the service.")] = None
    status: Annotated[ReadOnly | None, _says("Ignored: the reference server's answer.")] = None


class EnvVarShape(Shape, frozen=True, kw_only=True):
    """A variable of the step's environment; it wins over all others."""

    noun = "an environment variable"

    name: Annotated[VariableName, _says("The name of the variable.")]
    value: Annotated[Expression, _says("Its value.")]


class ResourcesShape(Shape, frozen=True, kw_only=True):
    """Kubernetes quantities by resource name."""

    noun = "resources"
    example = "resources: {requests: {cpu: 1}}"

    requests: Annotated[dict[Literal, Expression], _says("What the step needs, such as cpu: 1.")] = {}
    limits: Annotated[dict[Literal, Expression], _says("What the step may use at most.")] = {}


class RetryShape(Shape, frozen=True, kw_only=True):
    """How often and when a failed step is tried again."""

    noun = "a retry"
    example = "retry: {limit: 3}"

    limit: Annotated[int, msgspec.Meta(ge=0, le=100, description="How many more attempts a failed step gets.")]
    backoff: Annotated[Duration | None, _says("Wait before the first of them; doubles each time; 10s.")] = None
    max_backoff: Annotated[Duration | None, _says("The longest wait; 10m where absent.")] = None


class StepShape(Shape, frozen=True, kw_only=True):
    """One step: a container image with what goes in, what comes out and what it needs."""

    noun = "a step"

    name: Annotated[Name, _says("Unique in the workflow.")]
    image: Annotated[Expression, _says("The container image.")]
    inputs: Annotated[tuple[StepInputShape, ...], _says("What the step is given.")] = ()
    outputs: Annotated[tuple[StepOutputShape, ...], _says("What the step leaves.")] = ()
    extensions: Annotated[tuple[RequirementShape, ...], _says("Services that the step needs.")] = ()
    env: Annotated[tuple[EnvVarShape, ...], _says("Environment variables.")] = ()
    resources: Annotated[ResourcesShape, _says("Processor, memory and the like.")] = ResourcesShape()
    needs: Annotated[tuple[Literal, ...] | None, _says("Steps above that must succeed first; [] for none.")] = None
    retry: Annotated[RetryShape | None, _says("Try again when the step fails.")] = None
    timeout: Annotated[Duration | None, _says("How long an attempt may take.")] = None
    command: Annotated[tuple[Expression, ...] | None, _says("Instead of the image's entrypoint.")] = None
    args: Annotated[tuple[Expression, ...] | None, _says("Arguments of the entrypoint or command.")] = None
    when: Annotated[Later | None, _says("Not supported yet.")] = None
    matrix: Annotated[Later | None, _says("Not supported yet.")] = None
    cache: Annotated[Later | None, _says("Not supported yet.")] = None


class WorkflowShape(Shape, frozen=True, kw_only=True):
    """A workflow: steps that pass values on, from inputs to outputs."""

    noun = "a workflow"

    kind: Annotated[OneOf["workflow"] | None, _says("Inferred from `steps` where absent.")] = None
    name: Annotated[Name, _says("How everything else refers to the workflow.")]
    description: Annotated[Text | None, _says("For people.")] = None
    inputs: Annotated[tuple[WorkflowInputShape, ...], _says("What a run is given.")] = ()
    outputs: Annotated[tuple[WorkflowOutputShape, ...], _says("What a run leaves.")] = ()
    steps: Annotated[tuple[StepShape, ...], _says("The steps, at least one.")]
    executor: Annotated[Name | None, _says("Where the steps run: process or kubernetes.")] = None
    order: Annotated[Order, _says("dag: as references need it; listed: one after the other.")] = Order.DAG
    created: Annotated[ReadOnly | None, _says("Ignored: the reference server's answer.")] = None
    finally_: Annotated[Later | None, _says("Not supported yet.")] = msgspec.field(name="finally", default=None)
    schedule: Annotated[Later | None, _says("Not supported yet.")] = None
    concurrency: Annotated[Later | None, _says("Not supported yet.")] = None


class SecretReferenceShape(Shape, frozen=True, kw_only=True):
    """A credential that is kept elsewhere; exactly one of the fields."""

    noun = "a reference to a secret"

    from_env: Annotated[Text | None, _says("A variable of the daemon's environment.")] = None
    from_file: Annotated[Text | None, _says("The absolute path of a file on the daemon's host.")] = None
    from_secret: Annotated[Text | None, _says("A Kubernetes Secret: NAMESPACE/NAME/KEY.")] = None


class EndpointShape(Shape, frozen=True, kw_only=True):
    """An address of a service."""

    noun = "an endpoint"

    url: Annotated[Text, _says("The address.")]
    type: Annotated[EndpointType, _says("internal: only within its zone.")] = EndpointType.EXTERNAL
    configuration: Annotated[dict[Text, Text], _says("Variables for steps that use it.")] = {}
    extension_id: Annotated[ReadOnly | None, _says("Ignored.")] = None
    service_id: Annotated[ReadOnly | None, _says("Ignored.")] = None
    status: Annotated[ReadOnly | None, _says("Ignored.")] = None


class CredentialsShape(Shape, frozen=True, kw_only=True):
    """Who may use the service, and with which secrets."""

    noun = "credentials"

    id: Annotated[Name, _says("Unique in the service.")]
    scope: Annotated[Scope, _says("Who may use them.")] = Scope.GLOBAL
    default: Annotated[bool, _says("Preferred among those of the same scope.")] = False
    projects: Annotated[tuple[Literal, ...], _says("Projects that may use them.")] = ()
    users: Annotated[tuple[Literal, ...], _says("Users who may use them.")] = ()
    configuration: Annotated[
        dict[Text, Text | SecretReferenceShape], _says("Secret variables for steps that use the service.")
    ] = {}
    extension_id: Annotated[ReadOnly | None, _says("Ignored.")] = None
    service_id: Annotated[ReadOnly | None, _says("Ignored.")] = None
    status: Annotated[ReadOnly | None, _says("Ignored.")] = None


class ServiceShape(Shape, frozen=True, kw_only=True):
    """A service of an extension."""

    noun = "a service"

    id: Annotated[Name, _says("Unique in the extension.")]
    resource: Annotated[Literal | None, _says("What it offers, such as s3 or mlflow-tracking.")] = None
    category: Annotated[Literal | None, _says("A word for services that can stand in for each other.")] = None
    auth_required: Annotated[bool | None, _says("Whether it can only be used with credentials.")] = None
    authrequired: Annotated[bool | None, _says("Another spelling of auth_required.")] = None
    description: Annotated[Text | None, _says("For people.")] = None
    configuration: Annotated[dict[Text, Text], _says("Variables for steps that use it.")] = {}
    endpoints: Annotated[tuple[EndpointShape, ...], _says("Where it is.")] = ()
    credentials: Annotated[tuple[CredentialsShape, ...], _says("Who may use it.")] = ()
    extension_id: Annotated[ReadOnly | None, _says("Ignored.")] = None
    status: Annotated[ReadOnly | None, _says("Ignored.")] = None


class ExtensionShape(Shape, frozen=True, kw_only=True):
    """A record of the Extension Registry: an installed product and its services."""

    noun = "an extension"

    kind: Annotated[OneOf["extension"] | None, _says("Inferred from `services` where absent.")] = None
    id: Annotated[Name, _says("The id of the record.")]
    product: Annotated[Literal | None, _says("The product, such as mlflow.")] = None
    version: Annotated[Literal | None, _says("Its version.")] = None
    zone: Annotated[Literal | None, _says("Where it runs; usable from everywhere where absent.")] = None
    description: Annotated[Text | None, _says("For people.")] = None
    configuration: Annotated[dict[Text, Text], _says("Variables for steps that use it.")] = {}
    services: Annotated[tuple[ServiceShape, ...], _says("What it offers.")] = ()
    status: Annotated[ReadOnly | None, _says("Ignored.")] = None


class CodesetShape(Shape, frozen=True, kw_only=True):
    """A codeset: a git repository (`url`) or a folder (`path`)."""

    noun = "a codeset"

    kind: Annotated[OneOf["codeset"] | None, _says("Inferred from `name` with `url` or `path`.")] = None
    name: Annotated[Name, _says("Unique in its project.")]
    project: Annotated[Name | None, _says("`default` where absent.")] = None
    description: Annotated[Text | None, _says("For people.")] = None
    labels: Annotated[tuple[Literal, ...], _says("Free words, for people.")] = ()
    url: Annotated[Literal | None, _says("A git repository: https, http, ssh, git or file.")] = None
    ref: Annotated[Literal | None, _says("A branch, tag or commit of it.")] = None
    path: Annotated[Literal | None, _says("A folder, absolute or relative to this file.")] = None
    extension: Annotated[Name | None, _says("The record with the repository's credentials.")] = None


class AssignedCodesetShape(Shape, frozen=True, kw_only=True):
    """A codeset as the reference server writes it in an assignment."""

    noun = "a codeset of an assignment"

    name: Annotated[Name, _says("The name of the codeset.")]
    project: Annotated[Name | None, _says("Its project; `default` where absent.")] = None
    description: Annotated[ReadOnly | None, _says("Ignored.")] = None
    labels: Annotated[ReadOnly | None, _says("Ignored.")] = None
    url: Annotated[ReadOnly | None, _says("Ignored.")] = None


class AssignmentShape(Shape, frozen=True, kw_only=True):
    """Runs a workflow for each codeset now, and again whenever the codeset changes."""

    noun = "an assignment"

    kind: Annotated[OneOf["assignment"] | None, _says("Inferred from `workflow` with `codesets`.")] = None
    name: Annotated[Name | None, _says("The file's name where absent.")] = None
    workflow: Annotated[Name, _says("The workflow to run.")]
    codesets: Annotated[
        tuple[Literal | AssignedCodesetShape, ...], _says("NAME or PROJECT/NAME, either with @REF.")
    ]
    input: Annotated[Name | None, _says("The workflow input that takes the codeset, if there are several.")] = None
    inputs: Annotated[dict[Name, Text], _says("Values of other inputs, by name.")] = {}
    status: Annotated[ReadOnly | None, _says("Ignored.")] = None


class RunShape(Shape, frozen=True, kw_only=True):
    """A request for one run of a workflow."""

    noun = "a run request"

    kind: Annotated[OneOf["run"] | None, _says("Inferred from `workflow` with `inputs`.")] = None
    name: Annotated[Name | None, _says("The file's name where absent.")] = None
    workflow: Annotated[Name, _says("The workflow to run.")]
    inputs: Annotated[dict[Name, Text], _says("Values of the workflow's inputs, by name.")] = {}
    executor: Annotated[Name | None, _says("Where the steps run: process or kubernetes.")] = None


DocumentShape = WorkflowShape | ExtensionShape | CodesetShape | AssignmentShape | RunShape
