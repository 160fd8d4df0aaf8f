"""From nodes to shapes: every problem of a document is collected, and what is wrong is left blank.

A blank keeps its place and its type, so that the checks of meaning can go on where the form was wrong. Values of
tables are never quoted in messages: they may be credentials.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from typing import Any, Final, TypeVar, assert_never

from fusemld.model.problem import Problem, Severity
from fusemld.spec.leaves import Expression, Text
from fusemld.spec.nodes import MappingNode, Node, Place, ScalarNode, SequenceNode, shown_key
from fusemld.spec.shapes import SecretReferenceShape, Shape
from fusemld.spec.types import (
    Choice,
    Either,
    Field,
    Flag,
    Ignored,
    Leaf,
    Listing,
    NotYet,
    Record,
    Table,
    Type,
    Whole,
    fields_of,
)

S = TypeVar("S", bound=Shape)

MAX_ERRORS: Final = 100
_MAX_COMPARED: Final = 500
_TRUE: Final = frozenset({"true", "yes", "on"})
_NUMBER: Final = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?")
_FALSE: Final = frozenset({"false", "no", "off"})


class TooManyErrors(Exception):  # noqa: N818 -- ends the reading, it is not a failure
    """As many errors were found as are worth showing: reading the file ends here."""


class Findings:
    """Problems in the order in which they were found, at most `limit` errors and as many warnings."""

    def __init__(self, limit: int = MAX_ERRORS) -> None:
        self.problems: list[Problem] = []
        self.errors = 0
        self._limit = limit

    @property
    def has_errors(self) -> bool:
        return self.errors > 0

    def child(self) -> Findings:
        """For a part of the file; errors of both together count for the limit."""
        return Findings(self._limit - self.errors)

    def take(self, child: Findings) -> None:
        self.problems += child.problems
        self.errors += child.errors

    def error(self, message: str, place: Place) -> None:
        """Raises `TooManyErrors` when this was the last one."""
        self.errors += 1
        self.problems.append(Problem(message=message, line=place.line, column=place.column))
        if self.errors >= self._limit:
            raise TooManyErrors

    def warning(self, message: str, place: Place) -> None:
        """Left out where there are as many already."""
        if len(self.problems) - self.errors < self._limit:
            self.problems.append(
                Problem(message=message, line=place.line, column=place.column, severity=Severity.WARNING)
            )

    def suggestion(self, name: str, known: Collection[str]) -> str:
        """`: did you mean 'x'?` where a known name is close, else nothing; not among very many."""
        if len(known) > _MAX_COMPARED or len(name) > _MAX_COMPARED:
            return ""
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        return f": did you mean {close[0]!r}?" if close else ""


def read_shape(node: MappingNode, shape: type[S], findings: Findings) -> S:
    """The document as its shape. Complete only if no error was added to the findings."""
    fields = fields_of(shape)
    values: dict[str, Any] = {}
    for name, (place, value) in node.entries.items():
        field = fields.get(name)
        if field is None:
            findings.error(_unknown(name, shape, fields, findings), place)
        elif isinstance(value, ScalarNode) and value.is_null and not isinstance(field.type, NotYet):
            if field.required:
                findings.error(f"{name!r} of {shape.noun} is empty: {_wanted(field)}", place)
                values[field.attribute] = _blank(field.type, place)
        else:
            values[field.attribute] = _read(value, field.type, f"{name!r} of {shape.noun}", place, findings)
    for name, field in fields.items():
        if field.required and name not in node.entries:
            findings.error(f"{shape.noun} needs {name!r}: {_wanted(field)}", node.place)
            values[field.attribute] = _blank(field.type, node.place)
    return shape(**values)


def _unknown(name: str, shape: type[Shape], fields: dict[str, Field], findings: Findings) -> str:
    known = [field.name for field in fields.values() if not isinstance(field.type, Ignored | NotYet)]
    remedy = findings.suggestion(name, known) or f": it has {', '.join(known)}"
    return f"unknown field {shown_key(name)} of {shape.noun}{remedy}"


def _wanted(field: Field) -> str:
    return field.description[:1].lower() + field.description[1:].rstrip(".")


def _read(node: Node, type_: Type, where: str, key: Place, findings: Findings) -> Any:
    """`key` is the place of the field's name, for problems of the field as a whole."""
    match type_:
        case Ignored():
            return None
        case NotYet():
            findings.error(f"{where} is not supported yet: remove it", key)
            return None
        case Leaf():
            return _read_leaf(node, type_, where, findings)
        case Flag():
            return _read_flag(node, where, findings)
        case Whole():
            return _read_whole(node, type_, where, findings)
        case Choice():
            return _read_choice(node, type_, where, findings)
        case Listing():
            return _read_listing(node, type_, where, findings)
        case Table():
            return _read_table(node, type_, where, findings)
        case Record():
            if isinstance(node, MappingNode):
                return read_shape(node, type_.shape, findings)
            names = ", ".join(name for name, field in fields_of(type_.shape).items() if field.required)
            needs = f" with {names}" if names else ""
            example = f": write for instance {type_.shape.example}" if type_.shape.example else ""
            findings.error(f"{where} must be a mapping{needs}, not {_is(node)}{example}", node.place)
            return _blank(type_, node.place)
        case Either():
            part = type_.record if isinstance(node, MappingNode) else type_.leaf
            return _read(node, part, where, key, findings)
        case _:
            assert_never(type_)


def _read_leaf(node: Node, type_: Leaf, where: str, findings: Findings) -> Text:
    if not isinstance(node, ScalarNode):
        findings.error(f"{where} must be {type_.cls.what}, not {_is(node)}{_hint(node, type_)}", node.place)
        return _blank_text(type_.cls, node.place)
    text = type_.cls(node)
    if (complaint := text.complaint()) is not None:
        findings.error(f"{where}: {complaint}", node.place)
    return text


def _hint(node: Node, type_: Leaf) -> str:
    if isinstance(node, MappingNode):
        if node.entries.keys() & fields_of(SecretReferenceShape).keys():
            return ": references to secrets belong under 'credentials'"
        if issubclass(type_.cls, Expression):
            return ': put an expression in quotes, as in "{{ inputs.x }}"'
    return ""


def _read_flag(node: Node, where: str, findings: Findings) -> bool:
    word = node.text.lower() if isinstance(node, ScalarNode) else ""
    if word not in _TRUE | _FALSE:
        findings.error(f"{where} must be true or false", node.place)
    return word in _TRUE


def _read_whole(node: Node, type_: Whole, where: str, findings: Findings) -> int:
    if isinstance(node, ScalarNode) and node.text.isascii() and node.text.isdigit() and len(node.text) < 10:
        number = int(node.text)
        if type_.ge <= number <= type_.le:
            return number
    findings.error(f"{where} must be a whole number from {type_.ge} to {type_.le}", node.place)
    return type_.ge


def _read_choice(node: Node, type_: Choice, where: str, findings: Findings) -> Any:
    word = node.text if isinstance(node, ScalarNode) else None
    if word not in type_.words:
        shown = _is(node) if word is None else repr(word[:60])
        remedy = findings.suggestion(word or "", type_.words) or f": use {_one_of(type_.words)}"
        findings.error(f"{where} cannot be {shown}{remedy}", node.place)
        word = type_.words[0]
    return word if type_.convert is None else type_.convert(word)


def _read_listing(node: Node, type_: Listing, where: str, findings: Findings) -> tuple[Any, ...]:
    if not isinstance(node, SequenceNode):
        findings.error(f"{where} must be a list (lines that start with '- '), not {_is(node)}", node.place)
        return ()
    found = []
    for item in node.items:
        if isinstance(item, ScalarNode) and item.is_null:
            findings.error(f"an entry of {where} is empty: remove it or fill it in", item.place)
        else:
            found.append(_read(item, type_.item, f"an entry of {where}", item.place, findings))
    return tuple(found)


def _read_table(node: Node, type_: Table, where: str, findings: Findings) -> dict[Text, Any]:
    if not isinstance(node, MappingNode):
        findings.error(f"{where} must be a mapping of names to values, not {_is(node)}", node.place)
        return {}
    table: dict[Text, Any] = {}
    for name, (place, value) in node.entries.items():
        key = type_.key(ScalarNode(place=place, text=name))
        if (complaint := key.complaint()) is not None:
            findings.error(f"{where}: {complaint}", place)
        if isinstance(value, ScalarNode) and value.is_null:
            findings.error(f"{shown_key(name)} in {where} is empty: {_value_wanted(name)}", place)
        else:
            table[key] = _read(value, type_.value, f"{shown_key(name)} in {where}", place, findings)
    return table


def _value_wanted(name: str) -> str:
    return "put a space after the colon" if ":" in name else 'give it a value, "" for empty text'


def _is(node: Node) -> str:
    match node:
        case ScalarNode():
            return "nothing" if node.is_null else "a number" if _NUMBER.fullmatch(node.text) else "text"
        case SequenceNode():
            return "a list"
        case MappingNode():
            return "a mapping"
        case _:
            assert_never(node)


def _one_of(words: tuple[str, ...]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _blank(type_: Type, place: Place) -> Any:
    match type_:
        case Leaf():
            return _blank_text(type_.cls, place)
        case Listing():
            return ()
        case Table():
            return {}
        case Record():
            fields = fields_of(type_.shape).values()
            return type_.shape(
                **{field.attribute: _blank(field.type, place) for field in fields if field.required}
            )
        case Whole():
            return type_.ge
        case Either():
            return _blank(type_.leaf, place)
        case Choice() | Flag() | Ignored() | NotYet():
            raise AssertionError("no shape requires a field of this type")
        case _:
            assert_never(type_)


def _blank_text(cls: type[Text], place: Place) -> Text:
    return cls(ScalarNode(place=place, text=""))
