from __future__ import annotations

import difflib
import itertools
from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemld.model.template import Reference, Template
from fusemld.model.workflow import InputType
from fusemld.spec.expressions import Scope, parse_template


def _suggest(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f": did you mean {close[0]!r}?" if close else ""


SCOPE = Scope(
    inputs={
        "code-set": InputType.CODESET,
        "a.b": InputType.CODESET,
        "a.b.name": InputType.STRING,
        "epochs": InputType.INT,
    },
    steps={"build": frozenset({"image", "x.y"}), "s.outputs.t": frozenset({"z"}), "s": frozenset({"q"})},
    extensions=frozenset({"store", "my.store"}),
    suggest=_suggest,
)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("{{ inputs.epochs }}", ("inputs", "epochs")),
        ("{{inputs.epochs}}", ("inputs", "epochs")),
        ("{{ \n\t inputs.epochs \n }}", ("inputs", "epochs")),
        ("{{ inputs.code-set.version }}", ("inputs", "code-set", "version")),
        ("{{ inputs.a.b.project }}", ("inputs", "a.b", "project")),
        ("{{ inputs.a.b.name }}", ("inputs", "a.b.name")),
        ("{{ steps.build.outputs.image }}", ("steps", "build", "outputs", "image")),
        ("{{ steps.build.outputs.x.y }}", ("steps", "build", "outputs", "x.y")),
        ("{{ steps.s.outputs.t.outputs.z }}", ("steps", "s.outputs.t", "outputs", "z")),
        ("{{ extensions.store.url }}", ("extensions", "store", "url")),
        ("{{ extension.store.url }}", ("extensions", "store", "url")),
        ("{{ extensions.my.store.cfg.A.B-C }}", ("extensions", "my.store", "cfg", "A.B-C")),
        ("{{ workflow.name }}", ("workflow", "name")),
        ("{{ run.id }}", ("run", "id")),
    ],
)
def test_a_reference_is_split_at_the_declared_names(text: str, path: tuple[str, ...]) -> None:
    parsed = parse_template(text, SCOPE)

    assert parsed.problems == ()
    assert parsed.template == Template((Reference(path),))


def test_literals_and_references_keep_their_order() -> None:
    parsed = parse_template('{"cpu": 1}} {{ run.id }}{{ inputs.epochs }} }}', SCOPE)

    assert parsed.problems == ()
    assert parsed.template.parts == (
        '{"cpu": 1}} ',
        Reference(("run", "id")),
        Reference(("inputs", "epochs")),
        " }}",
    )


@pytest.mark.parametrize(
    ("text", "index", "message"),
    [
        ("ab {{ inputs.epochs", 3, "'{{' is never closed"),
        ("{{ }}", 3, "the expression is empty"),
        ("{{ input.epochs }}", 3, "unknown reference 'input.epochs': did you mean 'inputs'?"),
        ("{{ env.HOME }}", 3, "unknown reference 'env.HOME': a reference starts with inputs, steps"),
        ("{{ inputs.epoch }}", 3, "unknown input 'epoch': did you mean 'epochs'?"),
        ("{{ inputs.zzz }}", 3, "unknown input 'zzz': declare it under the workflow's 'inputs'"),
        ("{{ inputs. }}", 3, "the reference names no input"),
        ("{{ inputs.epochs.version }}", 3, "input 'epochs' is of type int and has no 'version'"),
        (
            "{{ inputs.code-set.versoin }}",
            3,
            "the codeset input 'code-set' has no 'versoin': did you mean 'version'?",
        ),
        ("{{ steps.biuld.outputs.image }}", 3, "unknown step 'biuld': did you mean 'build'?"),
        ("{{ steps.build.outputs.imag }}", 3, "step 'build' declares no output 'imag': did you mean 'image'?"),
        ("{{ steps.build.outputs.url }}", 3, "declare it under the step's 'outputs' (it has image, x.y)"),
        (
            "{{ steps.build.image }}",
            3,
            "incomplete reference 'steps.build.image': write {{ steps.STEP.outputs.NAME }}",
        ),
        ("{{ extensions.stroe.url }}", 3, "the step requires no extension 'stroe': did you mean 'store'?"),
        (
            "{{ extensions.other.cfg.K }}",
            3,
            "requires no extension 'other': list it under the step's 'extensions'",
        ),
        ("{{ extensions.store.urls }}", 3, "unknown field 'urls' of the extension 'store': did you mean 'url'?"),
        ("{{ extensions.store.S3_KEY }}", 3, "configuration values at {{ extensions.store.cfg.KEY }}"),
        (
            "{{ extensions.store }}",
            3,
            "incomplete reference 'extensions.store': add a field such as .url, or .cfg.KEY",
        ),
        ("{{ workflow.id }}", 3, "unknown reference 'workflow.id': only {{ workflow.name }} exists"),
        ("{{ run.name }}", 3, "only {{ run.id }} exists"),
    ],
)
def test_a_reference_that_means_nothing_is_reported_where_it_stands(text: str, index: int, message: str) -> None:
    ((where, found),) = parse_template(text, SCOPE).problems

    assert message in found
    assert where == index


def test_all_problems_of_a_text_are_reported() -> None:
    assert len(parse_template("{{ a }} {{ b }} {{ inputs.c }} {{", SCOPE).problems) == 4


REFERENCES = st.sampled_from(
    [
        Reference(("inputs", "epochs")),
        Reference(("inputs", "code-set", "url")),
        Reference(("steps", "build", "outputs", "x.y")),
        Reference(("extensions", "my.store", "cfg", "KEY")),
        Reference(("run", "id")),
    ]
)
LITERALS = st.text(max_size=10).filter(lambda text: "{" not in text and "}" not in text)


@given(st.lists(st.one_of(LITERALS, REFERENCES), max_size=8))
def test_a_template_reads_back_from_its_text(parts: list[str | Reference]) -> None:
    text = str(Template(tuple(parts)))

    parsed = parse_template(text, SCOPE)

    assert parsed.problems == ()
    assert str(parsed.template) == text
    assert parse_template(str(parsed.template), SCOPE) == parsed
    literals = [isinstance(part, str) for part in parsed.template.parts]
    assert "" not in parsed.template.parts
    assert not any(one and other for one, other in itertools.pairwise(literals))


@given(st.text(alphabet="{}. inputsteprunaxwofld-", max_size=60))
def test_any_text_is_a_template_or_has_problems_within_it(text: str) -> None:
    parsed = parse_template(text, SCOPE)

    assert all(0 <= index <= len(text) for index, _ in parsed.problems)
    assert len(parsed.starts) == len(parsed.template.references)
