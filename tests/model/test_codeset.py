"""References to codesets, and names that come close."""

from __future__ import annotations

import pytest

from fusemld.model.codeset import nearest_key

KNOWN = ("demo/iris", "lab/iris", "default/r", "lab/digits")


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("demo/irs", "demo/iris"),
        ("lab/irs", "lab/iris"),
        ("default/digits", "lab/digits"),
        ("default/missing", None),
    ],
)
def test_the_nearest_codeset_has_a_name_like_it_in_the_same_project_first(key: str, nearest: str | None) -> None:
    assert nearest_key(key, KNOWN) == nearest
