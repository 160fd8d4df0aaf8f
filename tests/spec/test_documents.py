from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemld.model.codeset import CodesetReference
from fusemld.model.document import Assignment, Kind, RunRequest
from fusemld.spec.documents import Parsed, read

ONE_OF_EACH = """\
# nothing
---
name: w
steps: [{name: a, image: i}]
---
id: x
services: []
---
name: c
url: https://example.org/c.git
---
name: d
path: ../d
---
workflow: w
codesets: [c, team/d@v1]
---
workflow: w
inputs: {epochs: 3, text: "{{ not an expression }}", flag: yes}
"""


def test_kinds_are_inferred(read_text: Callable[[str], Parsed]) -> None:
    parsed = read_text(ONE_OF_EACH)

    assert parsed.problems == ()
    assert [(document.kind, document.name, document.line) for document in parsed.documents] == [
        (Kind.WORKFLOW, "w", 3),
        (Kind.EXTENSION, "x", 6),
        (Kind.CODESET, "default/c", 9),
        (Kind.CODESET, "default/d", 12),
        (Kind.ASSIGNMENT, "file.5", 15),
        (Kind.RUN, "file.6", 18),
    ]


def test_an_explicit_kind_needs_nothing_to_be_inferred_from(read_text: Callable[[str], Parsed]) -> None:
    parsed = read_text("kind: run\nworkflow: w\n---\nkind: extension\nid: x\n")

    assert parsed.problems == ()
    assert [document.kind for document in parsed.documents] == [Kind.RUN, Kind.EXTENSION]


def test_values_of_a_run_request_are_the_text_that_the_user_wrote(read_text: Callable[[str], Parsed]) -> None:
    declared = read_text(ONE_OF_EACH).documents[-1].declared

    assert isinstance(declared, RunRequest)
    assert declared.inputs == {"epochs": "3", "text": "{{ not an expression }}", "flag": "yes"}


def test_codesets_of_an_assignment_are_references(read_text: Callable[[str], Parsed]) -> None:
    declared = read_text(ONE_OF_EACH).documents[4].declared

    assert isinstance(declared, Assignment)
    assert declared.codesets == (CodesetReference(name="c"), CodesetReference(project="team", name="d", ref="v1"))


@pytest.mark.parametrize(
    ("file", "root", "name"),
    [
        ("/watched/run.yaml", "/watched", "run"),
        ("/watched/a/b/run.yml", "/watched", "a.b.run"),
        ("/watched/a/run.yml", None, "run"),
        ("/elsewhere/run.yaml", "/watched", "run"),
        ("/watched/mein lauf.yaml", "/watched", "mein-lauf-ed31eb57"),
    ],
)
def test_a_request_without_a_name_is_called_like_its_file(file: str, root: str | None, name: str) -> None:
    parsed = read(b"workflow: w\ninputs: {}\n", file=Path(file), root=root)

    assert [document.name for document in parsed.documents] == [name]


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        (
            "foo: 1\nbar: 2\n",
            "f:1:1: cannot tell what this document is (it has foo, bar): a workflow has 'steps', ",
        ),
        (
            "workflow: w\n",
            "an assignment 'workflow' with 'codesets', a run request 'workflow' with 'inputs'; or say",
        ),
        ("PASSWORD:canary: 1\n", "f:1:1: cannot tell what this document is (it has PASSWORD):"),
        ("odd\N{NO-BREAK SPACE}key: 1\n", r"f:1:1: cannot tell what this document is (it has odd\xa0key):"),
        ("kind: workfow\n", "f:1:7: unknown kind 'workfow': did you mean 'workflow'?"),
        ("kind: zzz\n", "f:1:7: unknown kind 'zzz': use one of workflow, extension, codeset, assignment, run"),
        ("kind: [a]\nsteps: 1\n", "f:1:7: 'kind' of a workflow cannot be a list: use workflow"),
        ("- a\n", "f:1:1: a document must be a mapping of fields, not a list: a workflow has 'steps'"),
        ("text\n", "f:1:1: a document must be a mapping of fields, not text: a workflow has 'steps'"),
    ],
)
def test_a_document_that_fits_nothing_learns_what_would_make_it_fit(
    findings: Callable[[str], list[str]], text: str, finding: str
) -> None:
    assert any(finding in found for found in findings(text))


def test_one_bad_document_rejects_its_whole_file_with_all_problems_of_all_documents(
    read_text: Callable[[str], Parsed],
) -> None:
    parsed = read_text("kind: run\nworkflow: w\n---\nkind: run\n---\nname: a b\nurl: nowhere\n")

    assert parsed.documents == ()
    assert [problem.line for problem in parsed.problems] == [4, 6, 7]


def test_two_documents_of_a_file_cannot_declare_the_same_name(findings: Callable[[str], list[str]]) -> None:
    text = "name: c\nurl: https://x/y\n---\nname: c\nproject: default\npath: .\n"

    assert findings(text) == [
        "f:4:1: this file already declares the codeset 'default/c' in line 1: rename or remove one"
    ]


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n---\n...\n", "~\n"])
def test_a_file_without_content_declares_nothing(read_text: Callable[[str], Parsed], text: str) -> None:
    assert read_text(text) == Parsed()


KEYS = st.sampled_from(
    [
        "kind",
        "name",
        "id",
        "steps",
        "services",
        "inputs",
        "outputs",
        "image",
        "extensions",
        "needs",
        "retry",
        "limit",
        "workflow",
        "codesets",
        "url",
        "path",
        "env",
        "value",
        "codeset",
        "resources",
        "requests",
        "configuration",
        "credentials",
        "endpoints",
        "from_env",
        "product",
        "default",
        "type",
    ]
)
SCALARS = st.one_of(
    st.sampled_from(
        ["a", "{{ inputs.a }}", "{{", "workflow", "run", "int", "1", "~", '"', "a/b@c", "/x", "5s", ""]
    ),
    st.text(max_size=5),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=20,
)


def _as_yaml(tree: object) -> str:
    """JSON is YAML; scalars without quotes keep YAML's own reading of them in play."""
    match tree:
        case dict():
            return "{" + ", ".join(f"{key}: {_as_yaml(value)}" for key, value in tree.items()) + "}"
        case list():
            return "[" + ", ".join(_as_yaml(item) for item in tree) + "]"
        case _:
            text = str(tree)
            return text if text.isalnum() else "'" + text.replace("'", "''") + "'"


@given(TREES)
def test_any_structure_is_read_or_has_problems_with_places(tree: object) -> None:
    text = _as_yaml(tree)

    parsed = read(text.encode("utf-8", "surrogatepass"), file=Path("/w/f.yaml"))

    assert all(problem.line >= 1 and problem.column >= 1 and problem.message for problem in parsed.problems)
    assert not parsed.documents or parsed.is_accepted


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_have_problems(data: bytes) -> None:
    parsed = read(data, file="/w/f.yaml")

    assert not parsed.documents or parsed.is_accepted
