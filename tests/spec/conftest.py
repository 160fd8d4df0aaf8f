"""What tests of the language share: reading text and the places of its problems."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fusemld.model.workflow import Workflow
from fusemld.spec.documents import Parsed, read

Read = Callable[[str], Parsed]


@pytest.fixture
def read_text() -> Read:
    """Read the text of a file called /watched/team/file.yaml."""
    return lambda text: read(text.encode(), file=Path("/watched/team/file.yaml"))


@pytest.fixture
def findings(read_text: Read) -> Callable[[str], list[str]]:
    """Every problem of the text as the user sees it."""
    return lambda text: [problem.at("f") for problem in read_text(text).problems]


@pytest.fixture
def read_workflow(read_text: Read) -> Callable[[str], Workflow]:
    """The single workflow of a text without problems."""

    def read_one(text: str) -> Workflow:
        parsed = read_text(text)
        assert [problem.at("f") for problem in parsed.problems] == []
        declared = parsed.documents[0].declared
        assert isinstance(declared, Workflow)
        return declared

    return read_one


@pytest.fixture
def examples() -> Path:
    return Path(__file__).parents[2] / "examples" / "workflows"
