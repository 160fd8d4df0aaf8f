from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemld.model.ids import run_id

NOW = 1795422102.345
random_bytes = st.binary(min_size=4, max_size=4)


def test_an_id_tells_workflow_and_time() -> None:
    assert run_id("MLflow E2E", NOW, bytes(4)).startswith("mlflow-e2e-261123-082142-")


@given(st.text(max_size=100), st.floats(0, 4e9), random_bytes)
def test_an_id_is_a_dns_label_of_at_most_40_characters(workflow: str, now: float, random: bytes) -> None:
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])", run_id(workflow, now, random))


@given(st.floats(1e9, 4e9), st.floats(0.002, 1e8), random_bytes, random_bytes)
def test_ids_of_one_workflow_sort_by_time(now: float, later: float, first: bytes, second: bytes) -> None:
    assert run_id("w", now, first) < run_id("w", now + later, second)


def test_ids_of_the_same_moment_differ() -> None:
    assert len({run_id("w", NOW) for _ in range(1_000)}) == 1_000


def test_too_little_randomness_is_refused() -> None:
    with pytest.raises(ValueError, match="4 random bytes"):
        run_id("w", NOW, b"abc")
