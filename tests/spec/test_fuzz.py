"""Whatever is in a file, it is read or has problems that name places in it, in bounded time and memory."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest
from hypothesis import event, given, settings, target

from fusemld.model.problem import Severity
from fusemld.spec.documents import Parsed, read
from fusemld.spec.reader import MAX_ERRORS
from tests.spec.mutations import EVERY_FIELD, SEEDS, mutated_files
from tests.spec.worst_cases import SIZE_BYTES, WORST_CASES, measure

US_PER_BYTE = 20
"""Of processor time: ten times what the slowest takes on the machine that this was written on."""
MEMORY_PER_BYTE = 200
"""Twice what the largest takes."""


def lines_of(data: bytes) -> list[str]:
    """As editors count them; undecodable bytes count one each."""
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def check(data: bytes) -> Parsed:
    """What must hold of any file."""
    parsed = read(data, file="/w/f.yaml", root="/w")
    lines = lines_of(data)
    for problem in parsed.problems:
        assert problem.message
        assert 1 <= problem.line <= len(lines), problem
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1, problem
        assert problem.message.isprintable(), problem
    assert sum(problem.severity is Severity.ERROR for problem in parsed.problems) <= MAX_ERRORS + 1
    assert parsed.is_accepted or not parsed.documents, "a file is rejected whole"
    assert [(p.line, p.column) for p in parsed.problems] == sorted((p.line, p.column) for p in parsed.problems)
    for document in parsed.documents:
        assert 1 <= document.line <= len(lines)
        assert document.name
    assert read(data, file="/w/f.yaml", root="/w") == parsed, "reading again gives the same"
    return parsed


@settings(max_examples=10 * settings().max_examples)
@given(mutated_files())
def test_any_file_is_read_or_has_problems_with_places_in_it(data: bytes) -> None:
    parsed = check(data)

    event("accepted" if parsed.is_accepted else "rejected")
    target(len({problem.message for problem in parsed.problems}), label="different problems")


def test_the_seeds_are_right() -> None:
    assert all(check(data).is_accepted for data in SEEDS)
    assert len(check(EVERY_FIELD.encode()).documents) == 5


@pytest.fixture(scope="module")
def other_process() -> Iterator[ProcessPoolExecutor]:
    """Whose memory is not ours."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize("case", WORST_CASES)
def test_the_worst_files_take_time_and_memory_in_proportion_to_their_size(
    case: str, other_process: ProcessPoolExecutor
) -> None:
    cost = other_process.submit(measure, case).result()

    assert cost.size_bytes > 0.8 * SIZE_BYTES
    assert cost.processor_s < cost.size_bytes * US_PER_BYTE / 1e6
    assert cost.memory_bytes < cost.size_bytes * MEMORY_PER_BYTE
