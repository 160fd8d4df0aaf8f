"""YAML text as a tree of nodes that know their place, or the problems that keep it from being one.

Only what a document of ours can mean is accepted: the core tags, plain mapping keys, no duplicate keys. The
budgets are checked on the stream of events, before anything is composed: aliases are counted by what they
expand to, and never expanded. Messages never quote values, which may be credentials.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Protocol

import yaml

from fusemld.model.problem import Problem

MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 64
MAX_NODES: Final = 200_000

_MAX_PROBLEMS: Final = 100
_UTF8_BOM: Final = b"\xef\xbb\xbf"
_OTHER_BOMS: Final = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
_CONTROL: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LINE_END: Final = re.compile("\r\n|\r|\n")
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_TAG_PREFIX: Final = "tag:yaml.org,2002:"
_SCALAR_TAGS: Final = frozenset({"!", *(_TAG_PREFIX + name for name in ("str", "int", "float", "bool", "null"))})
_SEQUENCE_TAGS: Final = frozenset({"!", _TAG_PREFIX + "seq"})
_MAPPING_TAGS: Final = frozenset({"!", _TAG_PREFIX + "map"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A line and a column, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalarNode:
    """`text` is what the user wrote, quotes and escapes resolved. `offset` is where it starts in its line where
    every character of it is one character of the file, else None."""

    place: Place
    text: str
    is_null: bool = False
    offset: int | None = None

    def place_at(self, index: int) -> Place:
        """The place of a character of `text`, or of the scalar where that cannot be told."""
        if self.offset is None:
            return self.place
        return Place(line=self.place.line, column=self.place.column + self.offset + index)


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceNode:
    place: Place
    items: list[Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class MappingNode:
    """The entries by key, in the order of the file, each with the place of its key."""

    place: Place
    entries: dict[str, tuple[Place, Node]] = field(default_factory=dict)


class _Mark(Protocol):
    """Where PyYAML or libyaml saw something, counted from 0."""

    @property
    def index(self) -> int: ...
    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...


Node = ScalarNode | SequenceNode | MappingNode


class _Refused(Exception):  # noqa: N818 -- carries a finding, it is not a failure
    def __init__(self, message: str, place: Place) -> None:
        super().__init__(message)
        self.problem = Problem(message=message, line=place.line, column=place.column)


@dataclass(slots=True, kw_only=True)
class _Open:
    """A collection that is being composed. `merges` are the values of its `<<` keys; `key` waits for a value."""

    node: SequenceNode | MappingNode
    anchor: str | None
    nodes_before: int
    height: int = 1
    key: tuple[str, Place] | None = None
    expects_key: bool = True
    merges: list[tuple[Place, Node]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Anchored:
    """`size` counts the nodes below and including this one, aliases expanded; `height` its levels."""

    node: Node
    size: int
    height: int


def parse(data: bytes) -> tuple[list[Node], list[Problem]]:
    """The documents of a file (empty ones left out), or what is wrong with it as YAML."""
    problems: list[Problem] = []
    try:
        text = decode(data)
        documents = list(_Composer(problems).documents(text))
    except _Refused as refused:
        return [], [*problems, refused.problem]
    return documents, problems


def too_large(size_bytes: int) -> str:
    """What is said of a file above the budget, by whoever sees its size first."""
    return f"the file has {size_bytes:,} bytes, more than the {MAX_BYTES:,} allowed: split it into several files"


def shown_key(name: str) -> str:
    """A key as messages quote it: of `PASSWORD:secret`, which lacks a space, what is before the colon."""
    return repr(name.partition(":")[0][:60])


def decode(data: bytes) -> str:
    """The text of a file within the budget; a UTF-8 byte order mark at its start is dropped."""
    start = Place(line=1, column=1)
    if len(data) > MAX_BYTES:
        raise _Refused(too_large(len(data)), start)
    if data.startswith(_OTHER_BOMS):
        raise _Refused(
            "the file is not UTF-8 (its byte order mark says UTF-16 or UTF-32): save it as UTF-8", start
        )
    data = data.removeprefix(_UTF8_BOM)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        raise _Refused(
            f"invalid UTF-8 (byte 0x{data[error.start]:02x}): save the file as UTF-8", _end_of(before)
        ) from None
    if found := _CONTROL.search(text):
        name = "NUL byte" if found.group() == "\0" else f"control character U+{ord(found.group()):04X}"
        raise _Refused(
            f"{name}: remove it, YAML text holds printable characters only", _end_of(text[: found.start()])
        )
    return text


def _end_of(text: str) -> Place:
    lines = _LINE_END.split(text)
    return Place(line=len(lines), column=len(lines[-1]) + 1)


class _Composer:
    def __init__(self, problems: list[Problem]) -> None:
        self._problems = problems
        self._count = 0
        self._stack: list[_Open] = []
        self._anchors: dict[str, _Anchored | None] = {}
        self._root: Node | None = None

    def documents(self, text: str) -> Iterator[Node]:
        self._lines = _Lines(text)
        for event in _events(text, self._lines):
            match event:
                case yaml.DocumentStartEvent():
                    self._anchors, self._root = {}, None
                case yaml.DocumentEndEvent():
                    if self._root is not None and not (isinstance(self._root, ScalarNode) and self._root.is_null):
                        yield self._root
                case yaml.NodeEvent():
                    self._node(event)
                case yaml.CollectionEndEvent():
                    self._close()
                case _:
                    pass

    def _node(self, event: yaml.NodeEvent) -> None:
        place = self._lines.place(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            self._alias(event, place)
            return
        self._grow(1, 1, place)
        match event:
            case yaml.ScalarEvent():
                _check_tag(event.tag, _SCALAR_TAGS, place)
                if "\0" in event.value:
                    raise _Refused("this text holds an escaped NUL character: remove it", place)
                scalar = _scalar(event, place)
                if event.anchor is not None:
                    self._anchors[event.anchor] = _Anchored(node=scalar, size=1, height=1)
                self._add(scalar)
            case yaml.SequenceStartEvent():
                _check_tag(event.tag, _SEQUENCE_TAGS, place)
                self._open(SequenceNode(place=place), event.anchor)
            case yaml.MappingStartEvent():
                _check_tag(event.tag, _MAPPING_TAGS, place)
                self._open(MappingNode(place=place), event.anchor)
            case _:
                raise AssertionError(f"unknown YAML event {type(event).__name__}")

    def _open(self, node: SequenceNode | MappingNode, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = None
        self._stack.append(_Open(node=node, anchor=anchor, nodes_before=self._count - 1))

    def _alias(self, event: yaml.AliasEvent, place: Place) -> None:
        if event.anchor not in self._anchors:
            raise _Refused(
                "this alias names no anchor above it: put text that starts with '*' in quotes", place
            ) from None
        anchored = self._anchors[event.anchor]
        if anchored is None:
            raise _Refused("this alias stands inside of what it names: a value cannot contain itself", place)
        self._grow(anchored.size, anchored.height, place)
        self._add(anchored.node, anchored.height, place)

    def _grow(self, nodes: int, height: int, place: Place) -> None:
        if len(self._stack) + height > MAX_DEPTH:
            raise _Refused(f"nested more than {MAX_DEPTH} levels deep: flatten it", place)
        self._count += nodes
        if self._count > MAX_NODES:
            raise _Refused(
                f"more than {MAX_NODES:,} values once aliases are expanded: use fewer aliases or several files",
                place,
            )

    def _close(self) -> None:
        done = self._stack.pop()
        if isinstance(done.node, MappingNode):
            self._merge(done.node, done.merges)
        if done.anchor is not None:
            self._anchors[done.anchor] = _Anchored(
                node=done.node, size=self._count - done.nodes_before, height=done.height
            )
        self._add(done.node, done.height)

    def _add(self, node: Node, height: int = 1, place: Place | None = None) -> None:
        if not self._stack:
            self._root = node
            return
        parent = self._stack[-1]
        parent.height = max(parent.height, height + 1)
        if isinstance(parent.node, SequenceNode):
            parent.node.items.append(node)
        elif parent.expects_key:
            parent.expects_key = False
            parent.key = self._key(parent.node, node, place or node.place)
        else:
            parent.expects_key = True
            if parent.key is not None:
                key, key_place = parent.key
                if key == "<<":
                    parent.merges.append((key_place, node))
                else:
                    parent.node.entries[key] = (key_place, node)

    def _key(self, mapping: MappingNode, node: Node, place: Place) -> tuple[str, Place] | None:
        if isinstance(node, MappingNode):
            self._problem(
                'braces start a mapping in YAML: put an expression in quotes, as in "{{ inputs.x }}"', place
            )
            return None
        if isinstance(node, SequenceNode):
            self._problem("the name of a field must be plain text, not a list", place)
            return None
        if node.text in mapping.entries:
            first = mapping.entries[node.text][0]
            self._problem(f"{shown_key(node.text)} is given twice (first in line {first.line}): remove one", place)
            return None
        return node.text, place

    def _merge(self, mapping: MappingNode, merges: list[tuple[Place, Node]]) -> None:
        """YAML's `<<`: entries of other mappings, for keys that the mapping does not have itself."""
        for place, value in merges:
            sources = value.items if isinstance(value, SequenceNode) else [value]
            for source in sources:
                if isinstance(source, MappingNode):
                    for key, entry in source.entries.items():
                        mapping.entries.setdefault(key, entry)
                else:
                    self._problem("'<<' takes a mapping or a list of mappings", place)

    def _problem(self, message: str, place: Place) -> None:
        self._problems.append(Problem(message=message, line=place.line, column=place.column))
        if len(self._problems) >= _MAX_PROBLEMS:
            raise _Refused(f"stopped after {_MAX_PROBLEMS} problems: mend these first", place)


class _Lines:
    """Places as editors count them. libyaml also ends lines at U+0085, U+2028 and U+2029, and begins another one
    at the end of a text that does not end with a line."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._are_odd = any(separator in text for separator in "\x85\u2028\u2029")
        self._count = text.count("\n") + text.count("\r") - text.count("\r\n") + 1

    def place(self, mark: _Mark | None) -> Place:
        if mark is None:
            return Place(line=1, column=1)
        if mark.line < self._count and not self._are_odd:
            return Place(line=mark.line + 1, column=mark.column + 1)
        index = min(mark.index, len(self._text))
        line = bisect_right(self._starts, index)
        return Place(line=line, column=index - self._starts[line - 1] + 1)

    def text_of(self, line: int) -> str:
        """The line of that number, counted from 1."""
        end = self._starts[line] if line < len(self._starts) else len(self._text)
        return self._text[self._starts[line - 1] : end]

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *(found.end() for found in _LINE_END.finditer(self._text))]


def _events(text: str, lines: _Lines) -> Iterator[yaml.Event]:
    try:
        yield from yaml.parse(text, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, lines) from None
    except yaml.YAMLError as error:
        raise _Refused(f"not valid YAML: {type(error).__name__}", Place(line=1, column=1)) from None


def _syntax_error(error: yaml.MarkedYAMLError, lines: _Lines) -> _Refused:
    place = lines.place(error.problem_mark or error.context_mark)
    for number in (place.line, place.line - 1):
        if number >= 1:
            line = lines.text_of(number)
            indent = line[: len(line) - len(line.lstrip())]
            if "\t" in indent:
                tab = Place(line=number, column=indent.index("\t") + 1)
                return _Refused("a tab character is used for indentation: use spaces instead", tab)
    what = error.problem or error.context or "it cannot be parsed"
    if "'\\t'" in what or "\t" in what:
        return _Refused("a tab character stands where YAML allows none: use spaces instead", place)
    within = f" ({error.context})" if error.context and error.context != what else ""
    return _Refused(f"not valid YAML: {what}{within}", place)


def _check_tag(tag: str | None, allowed: frozenset[str], place: Place) -> None:
    if tag is not None and tag not in allowed:
        raise _Refused(
            "this YAML tag is not allowed: remove it, or put text that starts with '!' in quotes", place
        )


def _scalar(event: yaml.ScalarEvent, place: Place) -> ScalarNode:
    start, end = event.start_mark, event.end_mark
    plain = event.style in (None, "")
    quotes = 0 if plain else 1
    exact = (
        start is not None
        and end is not None
        and event.style in (None, "", "'", '"')
        and start.line == end.line
        and end.column - start.column == len(event.value) + 2 * quotes
    )
    is_null = event.tag == _TAG_PREFIX + "null" or (plain and event.tag is None and event.value in _NULLS)
    return ScalarNode(place=place, text=event.value, is_null=is_null, offset=quotes if exact else None)
