from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemld.registry.versions import is_malformed, version_agrees


@pytest.mark.parametrize(
    ("wanted", "actual"),
    [
        ("1.2.3", "1.2.3"),
        ("v1.2", "1.2.0"),
        ("1.2.0", "v1.2"),
        (">=1.0,<1.5", "1.4.9"),
        (">=1.0, <1.5", "1.0"),
        (">= 1.0 < 1.5", "1.2"),
        ("~1.10.0", "1.10.7"),
        ("~1.10", "v1.10.7"),
        ("~1", "1.99"),
        ("^2", "2.9.1"),
        ("^v2.1", "2.1"),
        ("^0.3", "0.3.9"),
        ("^0.0.3", "0.0.3"),
        ("^0", "0.9"),
        ("!=1.3", "1.2"),
        (">1", "1.0.1"),
        ("<=1.5", "1.5.0"),
        (">=1.5.0-rc1", "1.5.0-rc2"),
        ("1.0.0+build1", "1.0.0+build2"),
        ("latest", "latest"),
        ("2021.11 LTS", "2021.11 LTS"),
    ],
)
def test_a_version_within_the_constraint_agrees(wanted: str, actual: str) -> None:
    assert version_agrees(wanted, actual)


@pytest.mark.parametrize(
    ("wanted", "actual"),
    [
        ("1.2.3", "1.2.4"),
        (">=1.0,<1.5", "1.5.0"),
        (">=1.0,<1.5", "0.9"),
        ("~1.10.0", "1.11.0"),
        ("~1.10.3", "1.10.2"),
        ("^2", "3.0.0"),
        ("^2.3", "2.2"),
        ("^0.3", "0.4.0"),
        ("^0.0.3", "0.0.4"),
        ("!=1.2", "1.2.0"),
        ("<1.5", "1.5.0-rc1"),
        (">1.0", "latest"),
        (">1.0", ""),
        ("latest", "1.0"),
        (">=", "1.0"),
        ("> =1.0", "1.1"),
        (">=1.0,,<2", "1.1"),
        ("1.0 or so", "1.0"),
    ],
)
def test_a_version_outside_of_it_or_of_another_kind_does_not(wanted: str, actual: str) -> None:
    assert not version_agrees(wanted, actual)


NUMBERS = st.integers(0, 20)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_every_version_agrees_with_the_constraints_made_of_it(major: int, minor: int, patch: int) -> None:
    version = f"{major}.{minor}.{patch}"

    assert all(version_agrees(operator + version, f"v{version}") for operator in ("", "=", ">=", "<=", "~", "^"))
    assert not any(version_agrees(operator + version, version) for operator in ("!=", "<", ">"))


@given(st.text(max_size=20), st.text(alphabet="v0123456789.<>=~^!,- rc+", max_size=20))
def test_any_texts_can_be_compared(one: str, other: str) -> None:
    assert version_agrees(one, one)
    assert version_agrees(other, other)
    assert version_agrees(one, other) in (True, False)
    assert version_agrees(other, "1.2.3") in (True, False)


@pytest.mark.parametrize(
    ("wanted", "malformed"),
    [(">= 1.0 <", True), ("~x", True), ("banana", False), ("1.2", False), (">=1,<2", False)],
)
def test_what_has_the_signs_of_a_constraint_and_is_none_is_told_apart(wanted: str, malformed: bool) -> None:
    assert is_malformed(wanted) is malformed
