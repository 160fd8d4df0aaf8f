from __future__ import annotations

import pytest

from fusemld.model.workflow import InputType
from fusemld.spec.values import value_complaint


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        (InputType.STRING, ""),
        (InputType.INT, "-3"),
        (InputType.FLOAT, "1e-3"),
        (InputType.FLOAT, ".5"),
        (InputType.FLOAT, "3"),
        (InputType.BOOL, "True"),
        (InputType.PATH, "a b"),
        (InputType.CODESET, "team/code@feature/x"),
    ],
)
def test_what_fits_its_type_has_no_complaint(type_: InputType, text: str) -> None:
    assert value_complaint(type_, text) is None


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        (InputType.INT, "1.0"),
        (InputType.INT, "1\n"),
        (InputType.INT, ""),
        (InputType.FLOAT, "."),
        (InputType.FLOAT, "nan"),
        (InputType.BOOL, "yes"),
        (InputType.PATH, ""),
        (InputType.CODESET, "a/b/c"),
        (InputType.CODESET, "../x"),
        (InputType.CODESET, "x@--upload-pack"),
    ],
)
def test_what_does_not_fit_its_type_has_one(type_: InputType, text: str) -> None:
    assert value_complaint(type_, text)
