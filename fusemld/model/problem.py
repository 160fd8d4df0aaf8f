"""What is wrong with a document, and where."""

from __future__ import annotations

import enum

import msgspec


class Severity(enum.StrEnum):
    ERROR = "error"
    WARNING = "warning"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One finding. `line` and `column` count from 1; `message` says what is wrong and how to mend it."""

    message: str
    line: int = 1
    column: int = 1
    severity: Severity = Severity.ERROR

    def at(self, file: str) -> str:
        """`file:line:column: message`, with `warning: ` before the message of a warning."""
        prefix = "warning: " if self.severity is Severity.WARNING else ""
        return f"{file}:{self.line}:{self.column}: {prefix}{self.message}"
