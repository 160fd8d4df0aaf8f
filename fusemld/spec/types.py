"""The shapes' annotations as a small tree that the reader and the JSON Schema both walk.

msgspec's own inspection refuses unions of custom types, of which the shapes have a few.
"""

from __future__ import annotations

import enum
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from fusemld.spec.leaves import Later, ReadOnly, Text
from fusemld.spec.shapes import Shape


@dataclass(frozen=True, slots=True)
class Leaf:
    """Text of some kind."""

    cls: type[Text]


@dataclass(frozen=True, slots=True)
class Ignored:
    pass


@dataclass(frozen=True, slots=True)
class NotYet:
    pass


@dataclass(frozen=True, slots=True)
class Flag:
    pass


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number within bounds, both included."""

    ge: int
    le: int


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some words; `convert` makes the value of one."""

    words: tuple[str, ...]
    convert: type[enum.StrEnum] | None


@dataclass(frozen=True, slots=True)
class Listing:
    item: Type


@dataclass(frozen=True, slots=True)
class Table:
    key: type[Text]
    value: Type


@dataclass(frozen=True, slots=True)
class Record:
    shape: type[Shape]


@dataclass(frozen=True, slots=True)
class Either:
    """Text or a record: told apart by what stands in the document."""

    leaf: Leaf
    record: Record


Type = Leaf | Ignored | NotYet | Flag | Whole | Choice | Listing | Table | Record | Either


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """`name` is the document's, `attribute` the Struct's."""

    name: str
    attribute: str
    type: Type
    required: bool
    description: str


@cache
def fields_of(shape: type[Shape]) -> dict[str, Field]:
    """By the document's name, in the order of the shape."""
    return {field.name: field for field in _fields(shape)}


def _fields(shape: type[Shape]) -> Iterator[Field]:
    for info in msgspec.structs.fields(shape):
        hint, metas = _unwrapped(info.type)
        yield Field(
            name=info.encode_name,
            attribute=info.name,
            type=_type(hint, metas),
            required=info.required,
            description=next((meta.description for meta in metas if meta.description), ""),
        )


def _unwrapped(hint: Any) -> tuple[Any, tuple[msgspec.Meta, ...]]:
    if get_origin(hint) is Annotated:
        inner, *metas = get_args(hint)
        return inner, tuple(meta for meta in metas if isinstance(meta, msgspec.Meta))
    return hint, ()


def _type(hint: Any, metas: tuple[msgspec.Meta, ...] = ()) -> Type:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _union([_type(part, metas) for part in arguments if part is not types.NoneType])
    if origin is Literal:
        return Choice(arguments, None)
    if origin is tuple:
        return Listing(_type(arguments[0]))
    if origin is dict:
        return Table(arguments[0], _type(arguments[1]))
    if hint is bool:
        return Flag()
    if hint is int:
        bounds = next(meta for meta in metas if meta.ge is not None)
        assert isinstance(bounds.ge, int)
        assert isinstance(bounds.le, int)
        return Whole(bounds.ge, bounds.le)
    if issubclass(hint, ReadOnly):
        return Ignored()
    if issubclass(hint, Later):
        return NotYet()
    if issubclass(hint, Text):
        return Leaf(hint)
    if issubclass(hint, enum.StrEnum):
        return Choice(tuple(member.value for member in hint), hint)
    if issubclass(hint, Shape):
        return Record(hint)
    raise TypeError(f"a shape cannot have a field of type {hint!r}")


def _union(parts: list[Type]) -> Type:
    match parts:
        case [one]:
            return one
        case [Leaf() as leaf, Record() as record]:
            return Either(leaf, record)
        case _:
            raise TypeError(f"a shape cannot have a field of one of {parts!r}")
