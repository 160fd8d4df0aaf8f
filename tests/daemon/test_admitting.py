"""What only the daemon can refuse, at its place in the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

import pytest

from fusemld.daemon.admitting import Admitting
from fusemld.hooks.manager import Plugins
from fusemld.hooks.steps import StepContext, StepInputs
from fusemld.intake.snapshot import FileReport, Scan
from fusemld.model.document import Document
from fusemld.model.problem import Severity
from fusemld.spec.documents import read

VAULT = """
id: vault
product: vault
services:
  - id: main
    auth_required: true
    configuration: {REGION: here}
    credentials: [{id: all, configuration: {TOKEN: canary}}]
"""


class Predictor:
    """A step that knows what it wants."""

    repositories: tuple[str, ...] = ("registry.example/predictor",)
    inputs = StepInputs(
        required=frozenset({"model"}), optional=frozenset({"verbose"}), ignored={"registry": "local"}
    )

    async def run(self, context: StepContext) -> Mapping[str, str]:
        raise AssertionError


PREDICTOR = Predictor()
ADMITTING = Admitting(
    Plugins(
        names=(),
        runtimes={},
        pod_runtimes={},
        steps={"registry.example/predictor": PREDICTOR},
        resolvers={},
        service_kinds={},
        object_stores={},
    ),
    ["process"],
    "process",
)


def report(file: str, text: str) -> FileReport:
    parsed = read(text.encode(), file=PurePath("/inbox") / file, root=PurePath("/inbox"))
    assert all(problem.severity is Severity.WARNING for problem in parsed.problems), parsed.problems
    return FileReport(file=file, documents=parsed.documents)


def problems_of(text: str, registered: Mapping[str, Document] | None = None) -> list[str]:
    checked = ADMITTING.check(Scan(files=(report("w.yaml", text),)), registered or {})
    return [problem.at("w.yaml") for problem in checked.files[0].problems]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "name: w\nexecutor: kubernetes\nsteps: [{name: a, image: host, command: [ls]}]",
            "w.yaml:2:11: workflow 'w' wants the executor 'kubernetes'; this daemon has: process",
        ),
        (
            "workflow: w\nkind: run\ninputs: {}\nexecutor: kubernetes",
            "w.yaml:4:11: this run request wants the executor 'kubernetes'; this daemon has: process",
        ),
        (
            (
                "name: w\nsteps:\n  - name: a\n    image: registry.example/predictor:7\n    inputs:\n"
                "      - {name: model, value: m}\n      - {name: verbos, value: 1}"
            ),
            "w.yaml:7:16: step 'a' does not know the input 'verbos': did you mean 'verbose'?",
        ),
        (
            "name: w\nsteps: [{name: a, image: registry.example/predictor, inputs: [{name: model}]}]",
            "w.yaml:2:70: step 'a': the input 'model' has no value: give it one",
        ),
        (
            (
                "name: w\nsteps:\n  - name: a\n    image: host\n    command: [ls]\n"
                "    outputs: [{name: built, image: {name: x/y, dockerfile: Dockerfile}}]"
            ),
            "step 'a': no image builder is configured for the executor 'process'",
        ),
    ],
)
def test_a_document_that_this_daemon_cannot_run_is_refused_at_its_place(text: str, problem: str) -> None:
    found = problems_of(text)

    assert len(found) == 1
    assert problem in found[0]


def test_a_missing_input_and_all_other_problems_come_at_once() -> None:
    found = problems_of(
        "name: w\nexecutor: other\nsteps:\n  - name: a\n    image: registry.example/predictor\n"
        "    inputs: [{name: modle, value: m}]"
    )

    assert len(found) == 3
    assert any("did you mean 'model'" in problem for problem in found)
    assert any("the input 'model' is missing" in problem for problem in found)


@pytest.mark.parametrize(
    "text",
    [
        "name: w\nsteps: [{name: a, image: 'registry.example/predictor:1', inputs: [{name: model, value: m}]}]",
        "name: w\nsteps: [{name: a, image: host, command: [ls], inputs: [{name: anything, value: m}]}]",
        "name: w\ninputs: [{name: i}]\nsteps: [{name: a, image: '{{ inputs.i }}', inputs: [{name: x, value: m}]}]",
        (
            "name: w\nsteps: [{name: a, image: registry.example/predictor, "
            "inputs: [{name: model, value: m}, {name: registry, value: r}]}]"
        ),
        (
            "name: w\nsteps: [{name: a, image: registry.example/predictor, "
            "inputs: [{name: model, value: m}, {name: verbose}, {name: other}]}]"
        ),
    ],
)
def test_what_it_can_run_or_not_judge_yet_is_let_through(text: str) -> None:
    assert problems_of(text) == []


EXPOSING = (
    "name: w\nsteps:\n  - name: a\n    image: host\n    extensions: [{{name: v, product: vault}}]\n"
    "    command: [echo, '{{{{ extensions.v.cfg.{key} }}}}']"
)


def test_a_credential_on_a_command_line_is_refused_whichever_file_comes_first() -> None:
    extension = report("v.yaml", VAULT)
    text = EXPOSING.format(key="TOKEN")

    together = ADMITTING.check(Scan(files=(report("w.yaml", text), extension)), {})
    later = problems_of(text, {"vault": extension.documents[0]})

    assert [problem.message for problem in together.files[0].problems] == [
        (
            "step 'a': extensions.v.cfg.TOKEN comes from credentials and would be seen in command; "
            "hand it over in env or an input instead"
        )
    ]
    assert len(later) == 1
    assert together.files[0].documents == ()
    assert together.files[1] == extension


def test_a_plain_configuration_value_may_be_seen() -> None:
    extension = report("v.yaml", VAULT)

    assert problems_of(EXPOSING.format(key="REGION"), {"vault": extension.documents[0]}) == []


def test_a_file_is_rejected_whole_and_its_neighbours_are_not() -> None:
    bad = report(
        "bad.yaml",
        "name: good\nsteps: [{name: a, image: host, command: [ls]}]\n---\n"
        "name: bad\nexecutor: other\nsteps: [{name: a, image: host, command: [ls]}]",
    )
    good = report("good.yaml", "name: w\nsteps: [{name: a, image: host, command: [ls]}]")

    checked = ADMITTING.check(Scan(files=(bad, good)), {})

    assert [len(file.documents) for file in checked.files] == [0, 1]
