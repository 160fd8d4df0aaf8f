"""The meaning of a workflow: from its shape to the model, everything checked that the text alone can show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from fusemld.model.template import Reference, Template
from fusemld.model.workflow import (
    CodesetMount,
    CredentialRisk,
    EnvVar,
    InputType,
    OutputImage,
    Requirement,
    Resources,
    Retry,
    Step,
    StepInput,
    StepOutput,
    Workflow,
    WorkflowInput,
    WorkflowOutput,
)
from fusemld.spec.expressions import Scope, parse_template
from fusemld.spec.leaves import Expression, Literal, Text, named
from fusemld.spec.nodes import Place
from fusemld.spec.precedence import Need, check_precedence
from fusemld.spec.reader import Findings
from fusemld.spec.risks import credential_risks
from fusemld.spec.shapes import (
    CodesetMountShape,
    RequirementShape,
    ResourcesShape,
    RetryShape,
    StepInputShape,
    StepOutputShape,
    StepShape,
    WorkflowInputShape,
    WorkflowOutputShape,
    WorkflowShape,
)
from fusemld.spec.values import codeset_complaint, value_complaint

DEFAULT_MOUNT: Final = "/project"
DEFAULT_DOCKERFILE: Final = "Dockerfile"
_SELECTORS: Final = (
    "extension_id",
    "service_id",
    "product",
    "version",
    "zone",
    "service_resource",
    "service_category",
)
_QUANTITY: Final = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+|[numkMGTPE]|[KMGTPE]i)?")
_NO_EXTENSIONS_IN_SELECTORS: Final = (
    "a selector cannot refer to an extension, because selectors decide which one is meant: use an input instead"
)
_NO_EXTENSIONS_IN_OUTPUTS: Final = (
    "a workflow output cannot refer to an extension: let a step write the value to one of its outputs"
)
_NO_EXTENSIONS_IN_MOUNTS: Final = (
    "a codeset must be known when the run starts, before extensions are resolved: use a workflow input"
)
_NO_STEPS_IN_MOUNTS: Final = (
    "a codeset must be known when the run starts, before any step has an output: use a workflow input"
)


def read_workflow(shape: WorkflowShape, findings: Findings) -> tuple[Workflow, tuple[CredentialRisk, ...]]:
    """The workflow, which counts only if the findings have no errors, and its uses of what may be credentials."""
    return _Reading(shape, findings).workflow()


class _Reading:
    def __init__(self, shape: WorkflowShape, findings: Findings) -> None:
        self._shape = shape
        self._findings = findings
        self._inputs = {entry.name.text: entry.type for entry in shape.inputs}
        self._steps: dict[str, frozenset[str]] = {}
        for step in shape.steps:
            outputs = frozenset(output.name.text for output in step.outputs)
            self._steps[step.name.text] = self._steps.get(step.name.text, frozenset()) | outputs
        self._outputs = frozenset(output for outputs in self._steps.values() for output in outputs)
        self._needs: dict[str, list[Need]] = {step.name.text: [] for step in shape.steps}
        self._places: dict[tuple[str, str, Reference], Place] = {}

    def workflow(self) -> tuple[Workflow, tuple[CredentialRisk, ...]]:
        shape = self._shape
        if not shape.steps and not self._findings.has_errors:
            self._findings.error("a workflow needs at least one step: add one under 'steps'", shape.name.place)
        self._check_unique((entry.name for entry in shape.inputs), "workflow inputs")
        self._check_unique((entry.name for entry in shape.outputs), "workflow outputs")
        self._check_unique((step.name for step in shape.steps), "steps")
        workflow = Workflow(
            name=shape.name.text,
            description=_text(shape.description),
            inputs=tuple(self._input(entry) for entry in shape.inputs),
            steps=tuple(self._step(step) for step in shape.steps),
            outputs=tuple(self._output(entry) for entry in shape.outputs),
            executor=None if shape.executor is None else shape.executor.text,
            order=shape.order,
        )
        check_precedence(self._needs, self._findings)
        return workflow, tuple(self._placed(risk) for risk in credential_risks(workflow))

    def _placed(self, risk: CredentialRisk) -> CredentialRisk:
        reference = Reference(("extensions", risk.requirement, "cfg", risk.key))
        place = self._places[risk.step, risk.place, reference]
        return CredentialRisk(
            step=risk.step,
            place=risk.place,
            requirement=risk.requirement,
            key=risk.key,
            line=place.line,
            column=place.column,
        )

    def _input(self, entry: WorkflowInputShape) -> WorkflowInput:
        default = entry.default
        if default is not None and (complaint := value_complaint(entry.type, default.text)) is not None:
            self._findings.error(f"the default of {named('input', entry.name.text)}: {complaint}", default.place)
        return WorkflowInput(
            name=entry.name.text,
            description=_text(entry.description),
            type=entry.type,
            default=None if default is None else default.text,
            labels=tuple(label.text for label in entry.labels),
        )

    def _output(self, entry: WorkflowOutputShape) -> WorkflowOutput:
        name = entry.name.text
        value = None
        if entry.value is not None:
            scope = self._scope(no_extensions=_NO_EXTENSIONS_IN_OUTPUTS)
            value = self._template(entry.value, scope)
        elif name and name not in self._outputs:
            close = self._findings.suggestion(name, self._outputs)
            self._findings.error(
                f"no step declares the output {name!r}{close or ':'} "
                f"{'Add' if close else 'add'} it to a step's 'outputs', or give this one a 'value'",
                entry.name.place,
            )
        return WorkflowOutput(name=name, description=_text(entry.description), type=entry.type, value=value)

    def _step(self, shape: StepShape) -> Step:
        step = shape.name.text
        self._check_unique((output.name for output in shape.outputs), f"outputs of {named('step', step)}")
        self._check_unique(
            (requirement.name for requirement in shape.extensions), f"extensions of {named('step', step)}"
        )
        scope = self._scope(extensions=frozenset(requirement.name.text for requirement in shape.extensions))
        if not shape.image.strip() and not self._findings.has_errors:
            self._findings.error(
                f"the image of {named('step', step)} is empty: name a container image", shape.image.place
            )
        return Step(
            name=step,
            image=self._template(shape.image, scope, step, "image"),
            inputs=self._step_inputs(shape, scope),
            outputs=tuple(self._step_output(output, scope, step) for output in shape.outputs),
            extensions=tuple(self._requirement(requirement, step) for requirement in shape.extensions),
            env=self._step_env(shape, scope),
            resources=self._resources(shape.resources, scope, step),
            needs=self._step_needs(shape.needs, step),
            retry=None if shape.retry is None else self._retry(shape.retry),
            timeout_s=None if shape.timeout is None else self._positive(shape.timeout, shape.timeout.seconds),
            command=self._templates(shape.command, scope, step, "command"),
            args=self._templates(shape.args, scope, step, "args"),
        )

    def _step_inputs(self, shape: StepShape, scope: Scope) -> tuple[StepInput, ...]:
        inputs: dict[str, StepInput] = {}
        variables: dict[str, str] = {}
        for entry in shape.inputs:
            name = entry.name.text
            if entry.value is None and entry.codeset is None:
                self._findings.warning(
                    f"{named('input', name)} of {named('step', shape.name.text)} has no value, "
                    "so the step does not see it: give it a 'value' or a 'codeset'",
                    entry.name.place,
                )
                inputs.setdefault(name, StepInput(name=name))
                continue
            if name and name in inputs and inputs[name].has_value:
                self._findings.warning(
                    f"input {name!r} of {named('step', shape.name.text)} is given twice: the last value counts",
                    entry.name.place,
                )
            variable = re.sub("[-.]", "_", name).upper()
            first = variables.setdefault(variable, name)
            if first != name:
                self._findings.warning(
                    f"inputs {first!r} and {name!r} of {named('step', shape.name.text)} are both "
                    f"FUSEML_{variable}: the later one counts, rename one",
                    entry.name.place,
                )
            read = self._step_input(entry, scope, shape.name.text)
            inputs.pop(name, None)
            inputs[name] = read
        self._check_mounts(shape)
        return tuple(inputs.values())

    def _step_input(self, entry: StepInputShape, scope: Scope, step: str) -> StepInput:
        name = entry.name.text
        if entry.value is not None and entry.codeset is not None:
            self._findings.error(
                f"{named('input', name)} of {named('step', step)} has both a 'value' and a 'codeset': remove one",
                entry.name.place,
            )
        return StepInput(
            name=name,
            value=None if entry.value is None else self._template(entry.value, scope, step),
            codeset=None if entry.codeset is None else self._mount(entry.codeset, step),
        )

    def _step_env(self, shape: StepShape, scope: Scope) -> tuple[EnvVar, ...]:
        variables: dict[str, EnvVar] = {}
        for entry in shape.env:
            name = entry.name.text
            if name and name in variables:
                self._findings.warning(
                    f"variable {name!r} of {named('step', shape.name.text)} is given twice: the last value counts",
                    entry.name.place,
                )
            variables.pop(name, None)
            variables[name] = EnvVar(name=name, value=self._template(entry.value, scope, shape.name.text))
        return tuple(variables.values())

    def _mount(self, shape: CodesetMountShape, step: str) -> CodesetMount:
        scope = self._scope(no_extensions=_NO_EXTENSIONS_IN_MOUNTS, no_steps=_NO_STEPS_IN_MOUNTS)
        template = self._template(shape.name, scope, step)
        match template.parts:
            case (Reference(path=("inputs", name)),) if self._inputs[name] is not InputType.CODESET:
                self._findings.error(
                    f"input {name!r} is of type {self._inputs[name].value}, not a codeset: "
                    f"declare it with type: codeset, or use its value with 'value'",
                    shape.name.place,
                )
            case (str(text),) if (complaint := codeset_complaint(text)) is not None:
                self._findings.error(complaint, shape.name.place)
            case _:
                pass
        for reference in template.references:
            if reference.path[0] == "inputs" and reference.path[2:] in (("version",), ("url",)):
                self._findings.error(
                    f"the {reference.path[2]} of a codeset is only known once the codeset is: "
                    f"write {{{{ inputs.{reference.path[1]} }}}}",
                    shape.name.place,
                )
            elif reference.path == ("run", "id"):
                self._findings.error("no codeset is named after a run: name one that is there", shape.name.place)
        return CodesetMount(name=template, path=DEFAULT_MOUNT if shape.path is None else shape.path.text)

    def _check_mounts(self, shape: StepShape) -> None:
        mounts: dict[str, str] = {}
        for entry in shape.inputs:
            if entry.codeset is None:
                continue
            path = (entry.codeset.path or DEFAULT_MOUNT).rstrip("/")
            first = mounts.setdefault(path, entry.name.text)
            if first != entry.name.text:
                place = entry.name.place if entry.codeset.path is None else entry.codeset.path.place
                self._findings.error(
                    f"the codesets of {first!r} and {entry.name.text!r} are both at {path}: "
                    "give each its own 'path'",
                    place,
                )

    def _step_output(self, output: StepOutputShape, scope: Scope, step: str) -> StepOutput:
        if output.image is None:
            return StepOutput(name=output.name.text)
        dockerfile = output.image.dockerfile
        image = OutputImage(
            name=self._template(output.image.name, scope, step, "outputs"),
            dockerfile=Template((DEFAULT_DOCKERFILE,))
            if dockerfile is None
            else self._template(dockerfile, scope, step, "outputs"),
        )
        return StepOutput(name=output.name.text, image=image)

    def _requirement(self, shape: RequirementShape, step: str) -> Requirement:
        scope = self._scope(no_extensions=_NO_EXTENSIONS_IN_SELECTORS)
        selectors: dict[str, Template] = {}
        for selector in _SELECTORS:
            text: Expression | None = getattr(shape, selector)
            if text:  # the reference server answers with "" for a selector that is not set
                selectors[selector] = self._template(text, scope, step)
        if not selectors.keys() - {"zone"}:
            but = " but a zone" if selectors else ""
            self._findings.warning(
                f"{named('extension', shape.name.text)} of {named('step', step)} names no selector{but}, "
                "so any service matches: give it a 'product', a 'service_resource' or another one",
                shape.name.place,
            )
        return Requirement(name=shape.name.text, **selectors)

    def _resources(self, shape: ResourcesShape, scope: Scope, step: str) -> Resources:
        return Resources(
            requests=self._quantities(shape.requests, scope, step),
            limits=self._quantities(shape.limits, scope, step),
        )

    def _quantities(self, table: Mapping[Literal, Expression], scope: Scope, step: str) -> dict[str, Template]:
        quantities = {}
        for name, value in table.items():
            template = self._template(value, scope, step, "resources")
            if not template.references and "{{" not in value and _QUANTITY.fullmatch(value) is None:
                self._findings.error(
                    f"{name.text!r} of the resources of {named('step', step)} is not a quantity: "
                    "write a number with an optional unit, such as 1, 500m or 2Gi",
                    value.place,
                )
            quantities[name.text] = template
        return quantities

    def _step_needs(self, needs: Sequence[Text] | None, step: str) -> tuple[str, ...] | None:
        if needs is None:
            return None
        for name in needs:
            if name in self._steps:
                self._needs[step].append(Need(target=name.text, place=name.place))
            else:
                remedy = self._findings.suggestion(name, self._steps) or ": name a step of this workflow"
                self._findings.error(
                    f"{named('step', step)} needs the unknown step {name.text[:60]!r}{remedy}", name.place
                )
        return tuple(dict.fromkeys(name.text for name in needs))

    def _retry(self, shape: RetryShape) -> Retry:
        backoff = shape.backoff
        max_backoff = shape.max_backoff
        usual = Retry(limit=shape.limit)
        backoff_s = usual.backoff_s if backoff is None else backoff.seconds
        max_backoff_s = max(backoff_s, usual.max_backoff_s) if max_backoff is None else max_backoff.seconds
        if max_backoff is not None and max_backoff_s < backoff_s:
            self._findings.error(
                "'max_backoff' is shorter than 'backoff': make it at least as long", max_backoff.place
            )
        return Retry(limit=shape.limit, backoff_s=backoff_s, max_backoff_s=max_backoff_s)

    def _positive(self, text: Text, seconds: float) -> float:
        if seconds <= 0 and text.complaint() is None:
            self._findings.error(
                "'timeout' of a step must be longer than nothing: write for instance 1h", text.place
            )
        return seconds

    def _templates(
        self, texts: Sequence[Expression] | None, scope: Scope, step: str, where: str
    ) -> tuple[Template, ...] | None:
        return None if texts is None else tuple(self._template(text, scope, step, where) for text in texts)

    def _template(self, text: Expression, scope: Scope, step: str | None = None, where: str = "") -> Template:
        """`step` and `where` say whose text it is: what it refers to, that step needs."""
        parsed = parse_template(text.text, scope)
        for index, message in parsed.problems:
            self._findings.error(message, text.node.place_at(index))
        for reference, start in zip(parsed.template.references, parsed.starts, strict=True):
            place = text.node.place_at(start)
            if step is not None:
                self._places.setdefault((step, where, reference), place)
                if reference.path[0] == "steps":
                    self._needs[step].append(Need(target=reference.path[1], place=place, output=reference.path[3]))
        return parsed.template

    def _scope(
        self,
        *,
        extensions: frozenset[str] = frozenset(),
        no_extensions: str | None = None,
        no_steps: str | None = None,
    ) -> Scope:
        return Scope(
            inputs=self._inputs,
            steps=self._steps,
            extensions=extensions,
            no_extensions=no_extensions,
            no_steps=no_steps,
            suggest=self._findings.suggestion,
        )

    def _check_unique(self, names: Iterable[Text], what: str) -> None:
        first: dict[str, Place] = {}
        for name in names:
            if name and name in first:
                self._findings.error(
                    f"two {what} are named {name.text!r} (the first in line {first[name].line}): rename one",
                    name.place,
                )
            first.setdefault(name.text, name.place)


def _text(text: Text | None) -> str:
    return "" if text is None else text.text
