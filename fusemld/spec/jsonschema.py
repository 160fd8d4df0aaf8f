"""A JSON Schema of the documents for editors, made of the same shapes that the reader reads."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Final, assert_never, get_args

from fusemld.spec.durations import DURATION_PATTERN
from fusemld.spec.leaves import NAME_PATTERN, Duration, MountPath, Name, Text
from fusemld.spec.shapes import DocumentShape, Shape
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

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_PATTERNS: Final[dict[type[Text], str]] = {Name: NAME_PATTERN, Duration: DURATION_PATTERN, MountPath: "/.+"}
_INFERRED_FROM: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "workflow": (("steps",),),
    "extension": (("services",),),
    "codeset": (("name", "url"), ("name", "path")),
    "assignment": (("workflow", "codesets"),),
    "run": (("workflow", "inputs"),),
}


def json_schema() -> dict[str, Any]:
    """Draft 2020-12, for one document of a file."""
    shapes: tuple[type[Shape], ...] = get_args(DocumentShape)
    definitions: dict[str, Any] = {}
    for shape in shapes:
        _define(shape, definitions)
    return {
        "$schema": _DIALECT,
        "title": "A document in the folder that fusemld watches",
        "type": "object",
        "anyOf": [_document(shape) for shape in shapes],
        "$defs": definitions,
    }


def _document(shape: type[Shape]) -> dict[str, Any]:
    """What makes a document of this kind: `kind`, or the fields that it is inferred from."""
    kind = fields_of(shape)["kind"].type
    assert isinstance(kind, Choice)
    word = kind.words[0]
    ways = [{"required": list(names)} for names in _INFERRED_FROM[word]]
    return {"allOf": [_reference(shape), {"anyOf": [{"required": ["kind"]}, *ways]}]}


def _reference(shape: type[Shape]) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{_name(shape)}"}


def _name(shape: type[Shape]) -> str:
    return shape.__name__.removesuffix("Shape")


def _define(shape: type[Shape], definitions: dict[str, Any]) -> None:
    if _name(shape) in definitions:
        return
    fields = fields_of(shape).values()
    definitions[_name(shape)] = {
        "title": _name(shape),
        "description": inspect.cleandoc(shape.__doc__ or ""),
        "type": "object",
        "properties": {field.name: _property(field) for field in fields},
        "required": [field.name for field in fields if field.required],
        "additionalProperties": False,
    }
    for field in fields:
        for used in _records(field.type):
            _define(used, definitions)


def _property(field: Field) -> dict[str, Any]:
    schema = _schema(field.type)
    if not field.required and not isinstance(field.type, NotYet | Ignored):
        schema = {"anyOf": [schema, {"type": "null"}]}
    return {"description": field.description, **schema}


def _schema(type_: Type) -> dict[str, Any]:
    match type_:
        case Leaf():
            return _text(type_.cls)
        case Ignored():
            return {"readOnly": True}
        case NotYet():
            return {"not": {}}
        case Flag():
            return {"type": "boolean"}
        case Whole():
            return {"type": "integer", "minimum": type_.ge, "maximum": type_.le}
        case Choice():
            return {"enum": list(type_.words)}
        case Listing():
            return {"type": "array", "items": _schema(type_.item)}
        case Table():
            names = _text(type_.key)
            names.pop("type")
            return {
                "type": "object",
                "additionalProperties": _schema(type_.value),
                **({"propertyNames": names} if names else {}),
            }
        case Record():
            return _reference(type_.shape)
        case Either():
            return {"anyOf": [_schema(type_.leaf), _schema(type_.record)]}
        case _:
            assert_never(type_)


def _text(cls: type[Text]) -> dict[str, Any]:
    """Numbers and booleans are the text that the user wrote; a pattern only applies to strings."""
    schema: dict[str, Any] = {"type": ["string", "number", "boolean"]}
    if cls in _PATTERNS:
        schema["pattern"] = f"^{_PATTERNS[cls]}$"
    return schema


def _records(type_: Type) -> Iterator[type[Shape]]:
    match type_:
        case Record():
            yield type_.shape
        case Either():
            yield type_.record.shape
        case Listing():
            yield from _records(type_.item)
        case Table():
            yield from _records(type_.value)
        case _:
            pass
