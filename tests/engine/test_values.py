from __future__ import annotations

import pytest
from msgspec.structs import replace

from fusemld.engine import values
from fusemld.engine.begin import new_run
from fusemld.engine.plan import make_plan
from fusemld.engine.values import codeset_references, run_lookup, workflow_outputs
from fusemld.model.codeset import PinnedCodeset
from fusemld.model.errors import InvalidInputError
from fusemld.model.run import Run
from fusemld.model.template import Reference, Template, Value, limited, literal, render
from fusemld.model.workflow import (
    CodesetMount,
    EnvVar,
    Step,
    StepInput,
    StepOutput,
    Workflow,
    WorkflowInput,
    WorkflowOutput,
)

LONG = "x" * 40_000


def reference(*path: str) -> Template:
    return Template((Reference(path),))


def mounting(name: Template, **more: EnvVar) -> Step:
    inputs = (StepInput(name="c", codeset=CodesetMount(name=name, path="/project")),)
    return Step(name=f"s{name}", image=literal("x"), inputs=inputs, env=tuple(more.values()), needs=())


@pytest.fixture
def run() -> Run:
    workflow = Workflow(
        name="w",
        inputs=(WorkflowInput(name="code"),),
        steps=(Step(name="a", image=literal("x")),),
    )
    fresh = new_run(make_plan(workflow), id="r1", created_at=1.0, inputs={"code": "team/model@main"})
    pin = PinnedCodeset(project="team", name="model", version="abc", url="https://git/model", digest="d")
    step = replace(fresh.steps["a"], outputs={"o.p": "{{ run.id }}"})
    return replace(fresh, codesets={"team/model@main": pin}, steps=fresh.steps.set("a", step))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("inputs", "code"), "team/model@main"),
        (("inputs", "code", "name"), "model"),
        (("inputs", "code", "project"), "team"),
        (("inputs", "code", "version"), "abc"),
        (("inputs", "code", "url"), "https://git/model"),
        (("steps", "a", "outputs", "o.p"), "{{ run.id }}"),
        (("workflow", "name"), "w"),
        (("run", "id"), "r1"),
    ],
    ids=".".join,
)
def test_references_stand_for_the_values_of_the_run(run: Run, path: tuple[str, ...], text: str) -> None:
    assert render(reference(*path), run_lookup(run)) == Value(text)


def test_all_that_is_looked_up_together_has_a_limit() -> None:
    lookup = limited(lambda reference: Value("12345"), 12)

    assert (
        render(Template((Reference(("a",)), "any text", Reference(("b",)))), lookup).text == "12345any text12345"
    )
    with pytest.raises(
        InvalidInputError,
        match=r"cannot render \{\{ c \}\}: with it, the values have more than the 12 characters together",
    ):
        render(reference("c"), lookup)


@pytest.mark.parametrize(
    ("value", "output", "is_refused"),
    [
        (reference("steps", "a", "outputs", "o"), LONG, False),
        (reference("steps", "a", "outputs", "o"), "123456", True),
        (reference("inputs", "code"), LONG, True),
        (Template((Reference(("steps", "a", "outputs", "o")), "+")), LONG, True),
        (None, LONG, False),
        (None, "123456", True),
    ],
)
def test_a_run_hands_on_long_outputs_and_has_few_others(
    run: Run, monkeypatch: pytest.MonkeyPatch, value: Template | None, output: str, is_refused: bool
) -> None:
    monkeypatch.setattr(values, "STORED_LENGTH", 5)
    step = Step(name="a", image=literal("x"), outputs=(StepOutput(name="o"),))
    plan = make_plan(Workflow(name="w", steps=(step,), outputs=(WorkflowOutput(name="o", value=value),)))
    ended = replace(run.steps["a"], outputs={"o": output})
    run = replace(run, steps=run.steps.set("a", ended))

    if is_refused:
        with pytest.raises(InvalidInputError, match=r"output 'o': cannot render .* more than the 5 characters"):
            workflow_outputs(run, plan)
    else:
        assert workflow_outputs(run, plan) == {"o": output}


def test_a_name_is_not_put_together_of_more_than_names_have() -> None:
    mounts = [mounting(Template((Reference(("inputs", "x")),) * count)) for count in (4, 5)]

    assert codeset_references({"x": "y" * 1024}, Workflow(name="w", steps=(mounts[0],))) == ("y" * 4096,)
    with pytest.raises(InvalidInputError, match=r"cannot render \{\{ inputs.x \}\}: .* 4,096 characters"):
        codeset_references({"x": "y" * 1024}, Workflow(name="w", steps=(mounts[1],)))


@pytest.mark.parametrize(
    "path",
    [
        ("inputs", "other"),
        ("inputs", "code", "colour"),
        ("steps", "a", "outputs", "other"),
        ("steps", "b", "outputs", "o"),
        ("extensions", "db", "url"),
    ],
    ids=".".join,
)
def test_a_value_that_the_run_does_not_have_is_an_error(run: Run, path: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInputError, match=r"cannot render \{\{"):
        render(reference(*path), run_lookup(run))


def test_a_codeset_that_is_not_pinned_has_no_fields(run: Run) -> None:
    with pytest.raises(InvalidInputError, match="'team/model@main' is not pinned"):
        render(reference("inputs", "code", "version"), run_lookup(replace(run, codesets=None)))


def test_extensions_are_looked_up_elsewhere_and_keep_their_secrecy(run: Run) -> None:
    lookup = run_lookup(run, lambda _: Value("key", secret=True))

    rendered = render(Template(("x-", Reference(("extensions", "db", "cfg", "K")))), lookup)

    assert rendered == Value("x-key", secret=True)


def test_mounts_and_inputs_whose_fields_are_used_are_pinned_at_the_start_once_each() -> None:
    workflow = Workflow(
        name="w",
        inputs=tuple(WorkflowInput(name=name) for name in ("code", "data", "unused")),
        outputs=(WorkflowOutput(name="v", value=reference("inputs", "data", "version")),),
        steps=(
            mounting(reference("inputs", "code")),
            mounting(Template(("team/", Reference(("workflow", "name"))))),
            mounting(literal("fixed"), env=EnvVar(name="U", value=reference("inputs", "code", "url"))),
        ),
    )
    inputs = {"code": "code@main", "data": "data", "unused": "nothing"}

    assert codeset_references(inputs, workflow) == ("code@main", "team/w", "fixed", "data")


def test_a_mount_may_be_named_by_the_parts_of_a_codeset_input() -> None:
    parts = Template((Reference(("inputs", "code", "project")), "/", Reference(("inputs", "code", "name"))))
    workflow = Workflow(name="w", inputs=(WorkflowInput(name="code"),), steps=(mounting(parts),))

    assert codeset_references({"code": "team/model@main"}, workflow) == ("team/model", "team/model@main")
