"""What can go wrong with the database."""

from __future__ import annotations

import sqlite3
from typing import Self

from fusemld.model.errors import ConflictError, UnavailableError


class StoreError(UnavailableError):
    """the database cannot be read or written now (a full disk, say); nothing was half written"""


class DamagedError(StoreError):
    """an entry is not what this fusemld writes: a newer one wrote it, or something else has changed it"""

    @classmethod
    def of(cls, table: str, key: str, cause: object) -> Self:
        return cls(f"cannot read the entry {key!r} of the table {table}: {cause}")


class StoreConflictError(ConflictError):
    """the change contradicts what is stored; it was not written, changes of others were"""


def unavailable(doing: str, error: sqlite3.Error) -> StoreError:
    """`cannot write to the database: database or disk is full (SQLITE_FULL)`."""
    name = getattr(error, "sqlite_errorname", None)
    return StoreError(f"cannot {doing} the database: {error}" + (f" ({name})" if name else ""))
