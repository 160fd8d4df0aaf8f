"""Every place where tests may let a process die, with the tests that let it die there.

The places come from the code, the tests from pytest: those that have the name of the point as a parameter, or in
their own code.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

import fusemld
from fusemld.model import faults
from tests.torture.assaults import POINTS

PACKAGE = Path(fusemld.__file__).parent
CALL = re.compile(r"faults\.point\(([^)]*)\)")
LISTED = {**faults.POINTS, **faults.KUBERNETES_POINTS, **faults.SERVING_POINTS, **faults.UPKEEP_POINTS}
WHERE = ("tests/acceptance", "tests/store", "tests/executors")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    where: str

    @property
    def holds(self) -> str:
        """What holds when a process dies there; empty for a place that is in no list."""
        return LISTED.get(self.name, "")


def places() -> list[Place]:
    """All calls in the code, in order of their files."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            for argument in CALL.findall(line):
                where = f"{file.relative_to(PACKAGE.parent)}:{number}"
                found.append(Place(name=argument.strip('"'), where=where))
    return found


class _Hits:
    """Plugin of a pytest that only collects: `tests` has the tests of every point."""

    def __init__(self) -> None:
        self.tests: dict[str, list[str]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            assert isinstance(item, pytest.Function)
            for name in {_point(text) for text in _texts(item)} & LISTED.keys():
                self.tests.setdefault(name, []).append(item.nodeid)


def _point(text: str) -> str:
    """Without the number of times."""
    return text.partition(":")[0]


def _texts(item: pytest.Function) -> Iterator[str]:
    callspec = getattr(item, "callspec", None)
    values = list(callspec.params.values()) if callspec is not None else []
    codes = [item.function.__code__]
    for code in codes:
        values += code.co_consts
        codes += [constant for constant in code.co_consts if hasattr(constant, "co_consts")]
    yield from (value for value in values if isinstance(value, str))


def tests() -> dict[str, list[str]]:
    """Point to the tests that let a process die there."""
    hits = _Hits()
    root = Path(__file__).parents[2]
    options = ["--collect-only", "-qq", "-p", "no:cacheprovider"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = pytest.main([*options, *(str(root / folder) for folder in WHERE)], plugins=[hits])
    assert status == pytest.ExitCode.OK, said.getvalue()
    return hits.tests


def lines() -> Iterator[str]:
    """The list for people."""
    hitting = tests()
    for place in places():
        yield f"{place.name}  {place.where}"
        yield f"    {place.holds or 'IN NO LIST'}"
        if place.name in POINTS:
            yield "    the campaign, systematically"
        yield from (f"    {test}" for test in hitting.get(place.name, ["HIT BY NO TEST"]))


def table(hits: Mapping[str, int]) -> Iterator[str]:
    """How often a campaign has hit each point, and what hits those that it never comes by."""
    hitting = tests()
    for place in places():
        if place.name in POINTS:
            yield f"{place.name}  {hits.get(place.name, 0)} times"
        else:
            first, *others = hitting[place.name]
            yield f"{place.name}  not in the campaign; {len(others) + 1} tests, such as {first}"


if __name__ == "__main__":
    print("\n".join(lines()))
