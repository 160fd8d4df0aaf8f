"""Which texts are values of which input type."""

from __future__ import annotations

import re
from typing import Final, assert_never

from fusemld.model.codeset import parse_reference
from fusemld.model.workflow import InputType
from fusemld.spec.leaves import NAME_PATTERN

_INT: Final = re.compile(r"[+-]?[0-9]{1,100}")
_FLOAT: Final = re.compile(r"[+-]?([0-9]{1,100}\.?[0-9]{0,100}|\.[0-9]{1,100})([eE][+-]?[0-9]{1,4})?")
_NAME: Final = re.compile(NAME_PATTERN)
_REF: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,254}")


def value_complaint(type_: InputType, text: str) -> str | None:
    """Why the text is no value of the type, with the remedy; None where it is one."""
    shown = repr(text if len(text) <= 60 else text[:57] + "...")
    match type_:
        case InputType.STRING:
            return None
        case InputType.INT:
            return None if _INT.fullmatch(text) else f"{shown} is not an int: write a whole number such as 10"
        case InputType.FLOAT:
            return None if _FLOAT.fullmatch(text) else f"{shown} is not a float: write a number such as 0.5"
        case InputType.BOOL:
            is_bool = text.lower() in ("true", "false")
            return None if is_bool else f"{shown} is not a bool: write true or false"
        case InputType.PATH:
            return None if text else "a path cannot be empty: name a file or folder"
        case InputType.CODESET:
            return codeset_complaint(text)
        case _:
            assert_never(type_)


def codeset_complaint(text: str) -> str | None:
    """Why the text is no codeset reference, with the remedy; None where it is one."""
    try:
        reference = parse_reference(text)
    except ValueError as error:
        return str(error)
    for name in (reference.project, reference.name):
        if _NAME.fullmatch(name) is None:
            return (
                f"{name[:60]!r} is not a valid name of a codeset or project: use letters, digits, '.', '_' and '-'"
            )
    if reference.ref is not None and _REF.fullmatch(reference.ref) is None:
        return f"{reference.ref[:60]!r} is not a valid branch, tag or commit"
    return None
