from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fusemld.model.document import Kind
from fusemld.model.problem import Severity
from fusemld.model.template import Reference, Template
from fusemld.model.workflow import InputType, Order, Retry, Workflow
from fusemld.spec.documents import Parsed, read
from fusemld.spec.risks import credential_risks


@pytest.mark.parametrize("name", ["mlflow-e2e", "mlflow-multi-e2e"])
def test_the_workflows_of_the_reference_are_accepted_unmodified(examples: Path, name: str) -> None:
    file = examples / f"{name}.yaml"

    parsed = read(file.read_bytes(), file=file)

    assert [problem for problem in parsed.problems if problem.severity is Severity.ERROR] == []
    assert [(document.kind, document.name) for document in parsed.documents] == [(Kind.WORKFLOW, name)]


def test_the_example_of_the_documentation_means_what_it_says(
    examples: Path, read_workflow: Callable[[str], Workflow]
) -> None:
    workflow = read_workflow((examples / "mlflow-e2e.yaml").read_text())

    builder, trainer, predictor = workflow.steps
    assert [(entry.name, entry.type, entry.default) for entry in workflow.inputs] == [
        ("mlflow-codeset", InputType.CODESET, None),
        ("predictor", InputType.STRING, "auto"),
    ]
    assert builder.inputs[0].codeset is not None
    assert builder.inputs[0].codeset.name == Template((Reference(("inputs", "mlflow-codeset")),))
    assert builder.inputs[0].codeset.path == "/project"
    assert trainer.image == Template((Reference(("steps", "builder", "outputs", "image")),))
    assert [requirement.name for requirement in trainer.extensions] == ["mlflow-tracking", "mlflow-store"]
    assert str(trainer.extensions[1].product) == "mlflow"
    assert trainer.extensions[1].version is None
    assert predictor.needs is None
    assert workflow.order is Order.DAG


def test_every_field_of_the_reference_is_accepted(read_workflow: Callable[[str], Workflow]) -> None:
    workflow = read_workflow("""\
name: full
description: may hold {{ anything }}
created: "2021-04-09T06:17:25Z"
inputs:
  - {name: code, description: c, type: codeset, labels: [mlflow, 1]}
  - {name: rate, type: float, default: 1e-3}
  - {name: dry, type: bool, default: false}
  - {name: where, type: path, default: a/b}
  - {name: empty, default: ""}
outputs:
  - {name: image, description: o, type: string}
steps:
  - name: build
    image: i
    inputs:
      - {name: code, codeset: {name: "{{ inputs.code }}"}}
      - {name: literal, codeset: {name: team/other@v1.0, path: /other}}
    outputs:
      - name: image
        image: {name: "r/{{ inputs.code.project }}/{{ inputs.code.name }}:1", dockerfile: /project/Dockerfile}
    extensions:
      - name: e
        extension_id: a
        service_id: b
        product: "{{ inputs.where }}"
        version: ">=1.0,<1.5"
        zone: z
        service_resource: s3
        service_category: ""
        status: {extension_id: a, service_id: b, url: u, credentials_id: c}
    env:
      - {name: A, value: 1}
    resources:
      requests: {cpu: 1, memory: 1.5Gi, nvidia.com/gpu: "{{ inputs.rate }}"}
      limits: {cpu: 500m}
""")

    step = workflow.steps[0]
    assert workflow.description == "may hold {{ anything }}"
    assert workflow.inputs[0].labels == ("mlflow", "1")
    assert [entry.default for entry in workflow.inputs] == [None, "1e-3", "false", "a/b", ""]
    assert step.inputs[0].codeset is not None
    assert step.inputs[0].codeset.path == "/project"
    assert step.extensions[0].service_category is None
    assert step.env[0].value == Template(("1",))
    assert step.resources.requests["memory"] == Template(("1.5Gi",))


def test_what_goes_beyond_the_reference_is_read(read_workflow: Callable[[str], Workflow]) -> None:
    workflow = read_workflow("""\
name: w
executor: kubernetes
order: listed
steps:
  - {name: a, image: i, needs: []}
  - name: b
    image: i
    needs: [a]
    command: [python, -c, "print(1)"]
    args: [1, true]
    retry: {limit: 2, backoff: 5s, max_backoff: 1m}
    timeout: 15m
  - {name: c, image: i, retry: {limit: 1, backoff: 1h}}
""")

    first, second, third = workflow.steps
    assert (workflow.executor, workflow.order) == ("kubernetes", Order.LISTED)
    assert (first.needs, second.needs, third.needs) == ((), ("a",), None)
    assert second.command == (Template(("python",)), Template(("-c",)), Template(("print(1)",)))
    assert second.args == (Template(("1",)), Template(("true",)))
    assert second.retry == Retry(limit=2, backoff_s=5, max_backoff_s=60)
    assert second.timeout_s == 900
    assert third.retry == Retry(limit=1, backoff_s=3600, max_backoff_s=3600)


def test_a_step_input_given_twice_takes_the_last_value_with_a_warning(
    read_text: Callable[[str], Parsed],
) -> None:
    parsed = read_text("""\
name: w
steps:
  - name: a
    image: i
    inputs:
      - {name: verbose, value: 1}
      - {name: other, value: 2}
      - {name: verbose, value: 3}
""")

    (document,) = parsed.documents
    assert isinstance(document.declared, Workflow)
    assert [(entry.name, str(entry.value)) for entry in document.declared.steps[0].inputs] == [
        ("other", "2"),
        ("verbose", "3"),
    ]
    assert [problem.at("f") for problem in document.problems] == [
        "f:8:16: warning: input 'verbose' of step 'a' is given twice: the last value counts"
    ]
    assert parsed.problems == document.problems


def test_a_variable_given_twice_takes_the_last_value_with_a_warning(read_text: Callable[[str], Parsed]) -> None:
    parsed = read_text("""\
name: w
steps:
  - name: a
    image: i
    env:
      - {name: V, value: 1}
      - {name: OTHER, value: 2}
      - {name: V, value: 3}
""")

    (document,) = parsed.documents
    assert isinstance(document.declared, Workflow)
    assert [(entry.name, str(entry.value)) for entry in document.declared.steps[0].env] == [
        ("OTHER", "2"),
        ("V", "3"),
    ]
    assert [problem.at("f") for problem in parsed.problems] == [
        "f:8:16: warning: variable 'V' of step 'a' is given twice: the last value counts"
    ]


@pytest.mark.parametrize(
    ("entries", "seen"),
    [
        ("{name: x}", None),
        ("{name: x, value: , codeset: }", None),
        ("{name: x}, {name: x, value: 1}", "1"),
        ("{name: x, value: 1}, {name: x}", "1"),
        ("{name: x.y}, {name: x, value: 1}, {name: x-y, value: 2}", "1"),
    ],
)
def test_a_step_input_without_a_value_is_accepted_with_a_warning_and_changes_nothing(
    read_text: Callable[[str], Parsed], entries: str, seen: str | None
) -> None:
    parsed = read_text(f"name: w\nsteps: [{{name: a, image: i, inputs: [{entries}]}}]\n")

    (document,) = parsed.documents
    assert isinstance(document.declared, Workflow)
    values = {entry.name: entry.value for entry in document.declared.steps[0].inputs}
    assert values["x"] == (None if seen is None else Template((seen,)))
    (warning,) = parsed.problems
    assert warning.severity is Severity.WARNING
    assert "has no value, so the step does not see it: give it a 'value' or a 'codeset'" in warning.message


@pytest.mark.parametrize(
    ("selectors", "but"), [("", ""), (", zone: z", " but a zone"), (", extension_id: '', product: ''", "")]
)
def test_an_extension_without_a_selector_is_accepted_with_a_warning(
    read_text: Callable[[str], Parsed], selectors: str, but: str
) -> None:
    parsed = read_text(f"name: w\nsteps: [{{name: a, image: i, extensions: [{{name: e{selectors}}}]}}]\n")

    assert len(parsed.documents) == 1
    assert [problem.at("f") for problem in parsed.problems] == [
        (
            f"f:2:49: warning: extension 'e' of step 'a' names no selector{but}, so any service matches: "
            "give it a 'product', a 'service_resource' or another one"
        )
    ]


def test_a_workflow_without_steps_says_so(findings: Callable[[str], list[str]]) -> None:
    assert findings("name: w\nsteps: []\n") == ["f:1:7: a workflow needs at least one step: add one under 'steps'"]
    assert findings("name: w\nsteps:\n") == ["f:2:1: 'steps' of a workflow is empty: the steps, at least one"]


def test_inputs_that_would_be_the_same_variable_are_warned_about(findings: Callable[[str], list[str]]) -> None:
    text = "name: w\nsteps: [{name: a, image: i, inputs: [{name: x-y, value: 1}, {name: x_y, value: 2}]}]\n"

    assert findings(text) == [
        "f:2:68: warning: inputs 'x-y' and 'x_y' of step 'a' are both FUSEML_X_Y: the later one counts, rename one"
    ]


def test_uses_of_configuration_values_in_public_places_are_listed(read_text: Callable[[str], Parsed]) -> None:
    parsed = read_text("""\
name: w
steps:
  - name: a
    image: "{{ extensions.e.cfg.IMAGE }}"
    extensions: [{name: e, product: p}]
    command: [sh]
    args:
      - "{{ extensions.e.cfg.KEY }} {{ extensions.e.url }}"
    env: [{name: V, value: "{{ extensions.e.cfg.FINE }}"}]
    inputs: [{name: i, value: "{{ extensions.e.cfg.FINE }}"}]
    outputs: [{name: o, image: {name: "{{ extension.e.cfg.OUT }}"}}]
""")

    (document,) = parsed.documents
    assert [
        (risk.step, risk.place, risk.requirement, risk.key, risk.line, risk.column) for risk in document.risks
    ] == [
        ("a", "image", "e", "IMAGE", 4, 16),
        ("a", "args", "e", "KEY", 8, 13),
        ("a", "outputs", "e", "OUT", 11, 43),
    ]
    assert isinstance(document.declared, Workflow)
    assert [risk.key for risk in credential_risks(document.declared)] == ["IMAGE", "KEY", "OUT"]


def test_a_file_full_of_mistakes_is_read_in_bounded_time(read_text: Callable[[str], Parsed]) -> None:
    steps = "\n".join(
        f"- {{name: s{n}, image: '{{{{ inputs.x{n} }}}}', needs: [s{n + 1}, zz]}}" for n in range(9000)
    )

    started = time.perf_counter()
    parsed = read_text(f"name: w\nsteps:\n{steps}\n")

    assert time.perf_counter() - started < 20
    assert len(parsed.problems) == 101
    assert parsed.problems[-1].message == "stopped after 100 errors: mend these first"
    assert parsed.documents == ()


def test_no_codeset_is_named_after_a_run() -> None:
    text = (
        "name: w\nsteps:\n  - name: a\n    image: host\n    inputs:\n"
        "      - name: c\n        codeset: {name: 'code-{{ run.id }}', path: /project}\n"
    )

    (problem,) = read(text.encode(), file="/inbox/w.yaml").problems

    assert (problem.line, problem.message) == (7, "no codeset is named after a run: name one that is there")
