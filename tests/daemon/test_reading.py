"""What this daemon says of a file that nobody else could."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusemld.codesets.codesets import Codesets
from fusemld.daemon.reading import DocumentReader


@pytest.fixture
def reader(tmp_path: Path) -> DocumentReader:
    """Codesets may be in the watched folder and in `code`, where `link` leads out again."""
    inbox, code, private = (tmp_path / name for name in ("inbox", "code", "private"))
    for folder in (inbox, code, private):
        folder.mkdir()
    (code / "link").symlink_to(private)
    (code / "loop").symlink_to(code / "loop")
    return DocumentReader(inbox, Codesets(tmp_path / "state", (inbox, code)).refusal)


@pytest.mark.parametrize(
    "source",
    [
        "path: .",
        "path: ../code/sub",
        "path: ../code/loop",
        "url: 'https://git.example/a.git'",
        "url: 'file://{code}/a.git'",
    ],
)
def test_a_codeset_that_runs_may_use_is_read_without_a_word(
    reader: DocumentReader, tmp_path: Path, source: str
) -> None:
    text = f"name: a\n{source.format(code=tmp_path / 'code')}\n"

    (document,) = reader(text.encode(), Path("a.yaml")).documents

    assert document.problems == ()


@pytest.mark.parametrize(
    ("source", "column", "path"),
    [
        ("path: /etc", 7, "/etc"),
        ("path: ../private", 7, "{base}/private"),
        ("path: ../code/link", 7, "{base}/code/link"),
        ("url: file:///etc", 6, "/etc"),
    ],
)
def test_a_codeset_outside_the_roots_is_registered_with_a_warning_at_its_place(
    reader: DocumentReader, tmp_path: Path, source: str, column: int, path: str
) -> None:
    (document,) = reader(f"name: a\n{source}\n".encode(), Path("a.yaml")).documents

    assert [problem.at("a.yaml") for problem in document.problems] == [
        (
            f"a.yaml:2:{column}: warning: no run can use this: {path.format(base=tmp_path)} is outside the "
            "folders that codesets may come from; an administrator can allow it with the setting codesets.roots"
        )
    ]
