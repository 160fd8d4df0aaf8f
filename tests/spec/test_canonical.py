from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemld.model.workflow import Workflow
from fusemld.spec.canonical import workflow_from_canonical
from fusemld.spec.documents import Parsed, read

PLAIN = """\
name: w
inputs: [{name: code, type: codeset}]
steps:
  - name: a
    image: "{{ inputs.code.version }}"
    needs: []
    resources: {requests: {memory: 1Gi, cpu: 1}}
"""
REARRANGED = """\
# the same in other words
kind: workflow
steps:
- needs:
  resources:
    requests:
      "cpu": '1'
      memory: !!str 1Gi
  image:   '{{inputs.code.version}}'
  name: a
  needs: [ ]
inputs:
- type: codeset
  name: "code"
  description:
name: w
""".replace("- needs:\n  resources", "- resources")


def test_layout_quotes_comments_and_order_of_fields_do_not_count(read_text: Callable[[str], Parsed]) -> None:
    (plain,) = read_text(PLAIN).documents
    (rearranged,) = read_text(REARRANGED).documents

    assert plain.canonical == rearranged.canonical
    assert plain.digest == rearranged.digest


@pytest.mark.parametrize(
    ("old", "new"), [("Gi", "Mi"), ("needs: []", "retry: {limit: 1}"), ("name: a", "name: b"), ("version", "url")]
)
def test_content_counts(read_text: Callable[[str], Parsed], old: str, new: str) -> None:
    (plain,) = read_text(PLAIN).documents
    (other,) = read_text(PLAIN.replace(old, new)).documents

    assert plain.digest != other.digest


@pytest.mark.parametrize("name", ["mlflow-e2e", "mlflow-multi-e2e"])
def test_a_workflow_comes_back_from_its_canonical_form(examples: Path, name: str) -> None:
    file = examples / f"{name}.yaml"

    (document,) = read(file.read_bytes(), file=file).documents

    assert workflow_from_canonical(document.canonical) == document.declared


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=12)


@given(
    names=st.lists(NAMES, min_size=1, max_size=5, unique=True),
    texts=st.lists(TEXTS.filter(lambda text: "{{" not in text), min_size=5, max_size=5),
    needs=st.sampled_from([None, []]),
)
def test_any_workflow_comes_back_from_its_canonical_form(
    names: list[str], texts: list[str], needs: list[str] | None
) -> None:
    lines = ["name: w", "steps:"]
    for name, text in zip(names, texts, strict=False):
        quoted = "'" + text.replace("'", "''") + "'"
        lines += [f"  - name: '{name}'", "    image: i", f"    env: [{{name: V, value: {quoted}}}]"]
        lines += [] if needs is None else ["    needs: []"]

    (document,) = read("\n".join(lines).encode(), file="/w/f.yaml").documents

    again = workflow_from_canonical(document.canonical)
    assert isinstance(again, Workflow)
    assert again == document.declared
    assert [step.name for step in again.steps] == names
