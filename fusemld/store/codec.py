"""Structs and text as they are in the database.

Outputs, log tails and messages may hold any bytes: as text they carry those that are not UTF-8 as lone surrogates
(`surrogateescape`), which neither SQLite's TEXT nor msgspec's JSON takes.
"""

from __future__ import annotations

import json
from typing import Generic, TypeVar

import msgspec

from fusemld.store.errors import DamagedError

T = TypeVar("T")

_encoder = msgspec.json.Encoder()


def encode(value: msgspec.Struct) -> str:
    """JSON; lone surrogates become escapes that only `decode` takes back."""
    try:
        return _encoder.encode(value).decode()
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value), separators=(",", ":"))


class Decoder(Generic[T]):
    """Reads what `encode` wrote as values of one type; `DamagedError` for what is damaged."""

    def __init__(self, wanted: type[T]) -> None:
        self._type = wanted
        self._decoder = msgspec.json.Decoder(wanted)

    def __call__(self, text: str | bytes) -> T:
        try:
            return self._decoder.decode(text)
        except msgspec.ValidationError as error:
            raise self._damaged(error) from error
        except msgspec.DecodeError:
            return self._decode_surrogates(text)

    def _decode_surrogates(self, text: str | bytes) -> T:
        try:
            return msgspec.convert(json.loads(text), self._type)
        except ValueError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DamagedError:
        return DamagedError(f"cannot read an entry of the database as {self._type.__name__}: {error}")


def to_bytes(text: str) -> bytes:
    """Exact, whatever bytes the text came from."""
    return text.encode("utf-8", "surrogateescape")


def from_bytes(data: bytes | memoryview) -> str:
    return str(data, "utf-8", "surrogateescape")


def to_text(text: str) -> str:
    """For people and for SQL: what is not UTF-8 becomes a visible escape."""
    return text.encode("utf-8", "backslashreplace").decode()
