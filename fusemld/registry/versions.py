"""Whether a version is the one that a requirement asks for: equal, or within a semantic-version constraint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from semver import Version

_VERSION: Final = re.compile(
    r"[vV]?(?P<numbers>[0-9]{1,9}(\.[0-9]{1,9}){0,2})"
    r"(?P<rest>(-[0-9A-Za-z.-]{1,100})?(\+[0-9A-Za-z.-]{1,100})?)"
)
_TERM: Final = re.compile(
    r"\s*(?P<operator>>=|<=|==|!=|=|>|<|~|\^)?\s*(?P<version>[^\s,<>=!~^]+)\s*(,|(?=\s|[<>=!~^])|$)"
)


def version_agrees(wanted: str, actual: str) -> bool:
    """`wanted` is a version or terms such as `>=1.0,<1.5`, `~1.10.0` and `^2`, all of which must hold.

    A leading `v` and missing parts do not count (`v1.2` is `1.2.0`). A pre-release is only within a constraint
    that names a pre-release itself. What is no semantic version agrees only with itself.
    """
    wanted, actual = wanted.strip(), actual.strip()
    if wanted == actual:
        return True
    version = _parse(actual)
    terms = _terms(wanted)
    if version is None or not terms:
        return False
    if version.prerelease and not any(limit.prerelease for _, limit, _ in terms):
        return False
    return all(_holds(operator, limit, parts, version) for operator, limit, parts in terms)


def is_malformed(wanted: str) -> bool:
    """Whether it has signs of a constraint and is none: nothing but itself agrees with it."""
    return re.search(r"[<>=~^!,]", wanted) is not None and not _terms(wanted)


def _terms(text: str) -> list[tuple[str, Version, int]]:
    """Operator, version and how many parts of it were written; nothing where the text is no constraint."""
    terms = []
    for operator, written in _written_terms(text):
        version = _parse(written)
        if version is None:
            return []
        match = _VERSION.fullmatch(written)
        assert match is not None
        terms.append((operator, version, match["numbers"].count(".") + 1))
    return terms


def _written_terms(text: str) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(text):
        match = _TERM.match(text, position)
        if match is None:
            yield "=", ""
            return
        yield match["operator"] or "=", match["version"]
        position = match.end()


def _parse(text: str) -> Version | None:
    match = _VERSION.fullmatch(text)
    if match is None:
        return None
    numbers = [str(int(number)) for number in match["numbers"].split(".")]
    try:
        return Version.parse(".".join([*numbers, "0", "0"][:3]) + match["rest"])
    except ValueError:
        return None


def _holds(operator: str, limit: Version, parts: int, version: Version) -> bool:
    order = version.compare(limit)
    match operator:
        case "=" | "==":
            return order == 0
        case "!=":
            return order != 0
        case ">":
            return order > 0
        case ">=":
            return order >= 0
        case "<":
            return order < 0
        case "<=":
            return order <= 0
        case "~":
            return order >= 0 and version.major == limit.major and (parts == 1 or version.minor == limit.minor)
        case "^":
            return order >= 0 and _caret(limit, parts) == _caret(version, parts, limit)
        case _:
            raise AssertionError(f"unknown operator {operator!r}")


def _caret(version: Version, parts: int, limit: Version | None = None) -> tuple[int, ...]:
    """The parts that must stay: up to the first one of the limit that is not zero."""
    limit = limit or version
    if limit.major > 0 or parts == 1:
        return (version.major,)
    if limit.minor > 0 or parts == 2:
        return (version.major, version.minor)
    return (version.major, version.minor, version.patch)
