"""What a handler gets of a request, free of the web framework."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from fusemld.api.operations import Operations
from fusemld.model.errors import InvalidInputError

T = TypeVar("T")

_TRUE = frozenset({"1", "true", "yes"})
_FALSE = frozenset({"0", "false", "no", ""})


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """`path` and `query` are decoded; `user` is the name of who is at the other end."""

    operations: Operations
    user: str
    path: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    body: bytes = b""

    def decoded(self, wanted: type[T]) -> T:
        """The body as JSON of exactly that shape; an empty body is an empty object."""
        try:
            return msgspec.json.decode(self.body or b"{}", type=wanted)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise InvalidInputError(f"cannot read the request's body: {error}") from error

    def flag(self, name: str) -> bool:
        """A query parameter that is on or off; off where it is absent."""
        value = self.query.get(name)
        if value is None or value.lower() in _FALSE:
            return False
        if value.lower() in _TRUE:
            return True
        raise InvalidInputError(f"cannot read the parameter {name}: {value!r} is neither 1 nor 0")

    def number(self, name: str, default: int, largest: int) -> int:
        value = self.query.get(name)
        if value is None:
            return default
        if not value.isascii() or not value.isdigit() or not 1 <= int(value[:20]) <= largest:
            raise InvalidInputError(f"cannot read the parameter {name}: {value!r} is not from 1 to {largest}")
        return int(value)

    def optional(self, name: str) -> str | None:
        """A query parameter; None where it is absent or, as the reference allows, empty."""
        return self.query.get(name) or None


def refuse_unknown(query: Mapping[str, str], known: tuple[str, ...]) -> None:
    """Raises `InvalidInputError` with the nearest name."""
    for name in query:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidInputError(f"cannot read the request: there is no parameter {name!r}{hint}")
