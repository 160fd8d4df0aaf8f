"""What a document asks for, given what is in force."""

from __future__ import annotations

import pytest

from fusemld.intake.triggers import Registered, Verdict, judge, needed, resolve_inputs
from fusemld.model.document import Document, DocumentState, Kind
from fusemld.model.workflow import Workflow
from fusemld.spec.documents import read

STEPS = "steps: [{name: s, image: host, command: ['true']}]\n"
TWO_CODESETS = f"name: w\ninputs: [{{name: a, type: codeset}}, {{name: b, type: codeset}}]\n{STEPS}"
MOUNTS = """
name: mounts
inputs: [{name: which, type: codeset, default: digits}]
steps:
  - name: first
    image: host
    command: ["true"]
    inputs:
      - {name: fixed, codeset: {name: lab/base, path: /base}}
      - {name: chosen, codeset: {name: "{{ inputs.which }}", path: /chosen}}
"""


def documents(*texts: str) -> list[Document]:
    found: list[Document] = []
    for text in texts:
        parsed = read(text.encode(), file="/inbox/a.yaml")
        assert parsed.is_accepted, parsed.problems
        found += parsed.documents
    return found


def verdict(text: str, *others: str) -> Verdict:
    in_force = documents(*others)
    registered = Registered(
        workflows={document.name: document for document in in_force if document.kind is Kind.WORKFLOW},
        codesets={document.name: document for document in in_force if document.kind is Kind.CODESET},
    )
    return judge(documents(text)[0], registered)


def workflow(text: str) -> Workflow:
    declared = documents(text)[0].declared
    assert isinstance(declared, Workflow)
    return declared


def test_a_codeset_input_without_a_default_never_has_a_value() -> None:
    found = verdict(TWO_CODESETS)

    assert found.starts == ()
    assert found.state is DocumentState.ACCEPTED
    assert found.detail.startswith("runs on request: needs ")


def test_a_workflow_waits_for_the_codesets_that_its_inputs_and_steps_name() -> None:
    found = verdict(MOUNTS, "{kind: codeset, name: base, project: lab, path: /x}")

    assert found.state is DocumentState.WAITING
    assert found.detail == "waiting for codeset default/digits"


@pytest.mark.parametrize("which", ["text", "request"])
def test_a_name_of_a_codeset_that_is_too_long_is_refused_where_it_is_asked_for(which: str) -> None:
    """A small file may put a name of gigabytes together."""
    name = "{{ inputs.which }}" * 2000
    default = f", default: '{'p' * 3000}'" if which == "text" else ""
    mounts = MOUNTS.replace(", type: codeset, default: digits", default).replace("{{ inputs.which }}", name)
    request = f"kind: run\nworkflow: mounts\ninputs: {{which: '{'p' * 3000}'}}"

    found = verdict(mounts) if which == "text" else verdict(request, mounts)

    assert found.state is DocumentState.REJECTED
    assert "cannot render {{ inputs.which }}: with it, the values have more than the 4,096" in found.detail
    assert [problem.message for problem in found.problems] == [found.detail]


def test_a_run_belongs_to_the_project_of_the_codeset_that_it_was_given() -> None:
    codesets = needed(workflow(MOUNTS), {"which": "team/faces@v2"})

    assert [str(reference) for reference in codesets] == ["team/faces@v2", "lab/base"]


def test_an_assignment_must_say_which_of_several_codeset_inputs_it_sets() -> None:
    text = "{kind: assignment, name: n, workflow: w, codesets: [digits]%s}"

    ambiguous = verdict(text % "", TWO_CODESETS)
    unknown = verdict(text % ", input: c", TWO_CODESETS)
    partly = verdict(text % ", input: a", TWO_CODESETS)

    assert "several codeset inputs (a, b): name one with `input:`" in ambiguous.detail
    assert "has no codeset input 'c'" in unknown.detail
    assert "needs a value for its input 'b' (codeset)" in partly.detail


def test_an_assignment_sets_the_only_codeset_input_that_is_free() -> None:
    found = verdict(
        "{kind: assignment, name: n, workflow: w, codesets: [digits@v1], inputs: {b: base}}",
        TWO_CODESETS,
        "{kind: codeset, name: digits, url: 'https://example.org/d.git'}",
        "{kind: codeset, name: base, url: 'https://example.org/b.git'}",
    )

    assert [start.inputs for start in found.starts] == [{"a": "default/digits@v1", "b": "base"}]


def test_given_values_win_over_defaults_and_every_misfit_is_told() -> None:
    text = (
        f"name: w\ninputs: [{{name: n, type: int, default: 1}}, {{name: f, type: bool, default: true}}]\n{STEPS}"
    )

    good = resolve_inputs(workflow(text), {"n": "2"})
    bad = resolve_inputs(workflow(text), {"n": "x", "f": "maybe", "m": ""})

    assert good.values == {"n": "2", "f": "true"}
    assert good.problems == {}
    assert len(bad.problems) == 3
