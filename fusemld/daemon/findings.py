"""What `fusemld check` finds."""

from __future__ import annotations

import enum

import msgspec


class Level(enum.StrEnum):
    OK = "ok"
    UNKNOWN = "unknown"
    WARN = "warn"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """`unknown`: it was not looked at; `warn`: something will not work or not well; `fail`: the daemon or every
    run will not work."""

    name: str
    level: Level
    message: str
    remedy: str = ""


def ok(name: str, message: str) -> Finding:
    return Finding(name=name, level=Level.OK, message=message)


def unknown(name: str, message: str, remedy: str) -> Finding:
    return Finding(name=name, level=Level.UNKNOWN, message=message, remedy=remedy)


def warn(name: str, message: str, remedy: str) -> Finding:
    return Finding(name=name, level=Level.WARN, message=message, remedy=remedy)


def fail(name: str, message: str, remedy: str) -> Finding:
    return Finding(name=name, level=Level.FAIL, message=message, remedy=remedy)
