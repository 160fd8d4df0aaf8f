"""Tables and values for people and programs. Nothing is ever cut off: pipes and copying come first."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import click

from fusemld.cli.options import Output

if TYPE_CHECKING:
    from fusemld.api.views import Time

_COLOURS = {
    "succeeded": "green",
    "ready": "green",
    "registered": "green",
    "ok": "green",
    "failed": "red",
    "rejected": "red",
    "fail": "red",
    "running": "cyan",
    "starting": "cyan",
    "building": "cyan",
    "waiting": "yellow",
    "queued": "yellow",
    "backoff": "yellow",
    "shadowed": "yellow",
    "cancelled": "yellow",
    "skipped": "yellow",
    "warn": "yellow",
}


def count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def emit(output: Output, value: object, table: Callable[[], str]) -> None:
    """Write `value` as the output option says; `table` is asked only where it is needed."""
    match output:
        case Output.TABLE:
            text = table()
        case Output.JSON:
            import msgspec

            text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
        case Output.YAML:
            import msgspec
            import yaml

            plain = msgspec.json.decode(msgspec.json.encode(value))
            text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=1_000_000)
    click.echo(text.rstrip("\n"))


def emit_next(output: Output, value: object) -> None:
    """One of several values as they come: a line of JSON, or a document of YAML."""
    match output:
        case Output.JSON:
            import msgspec

            click.echo(msgspec.json.encode(value))
        case Output.YAML:
            click.echo("---")
            emit(output, value, str)
        case Output.TABLE:
            raise AssertionError("people are shown something else")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns. In a terminal known states are coloured (`click.echo` leaves that out of pipes)."""
    cells = [[heading.upper() for heading in headings], *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    lines = []
    for row in cells:
        padded = [_coloured(cell, width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def fields(pairs: Iterable[tuple[str, str]]) -> str:
    """`name: value` lines, the values aligned; empty values are left out."""
    shown = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in shown), default=0) + 1
    return "\n".join(f"{name + ':':<{width}} {state(printable(value))}" for name, value in shown)


def indented(text: str, by: str = "    ") -> str:
    """Every line of a text of several, made printable."""
    return "\n".join(f"{by}{printable(line)}" for line in text.splitlines())


def printable(text: str) -> str:
    """Text on one line without control characters: what others wrote must not steer this terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " if char in "\n\t\r" else "�" for char in text)


def state(text: str) -> str:
    """A state in its colour, anything else as it is."""
    return _coloured(text, 0)


def duration(seconds: float) -> str:
    """`0.4s`, `12s`, `3m05s`, `2h03m`, `4d05h`."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def ago(time: Time | None) -> str:
    return "" if time is None else f"{duration(seconds_since(time))} ago"


def left(time: Time | None) -> str:
    """What is left until a deadline: `in 3m05s`, or `now`."""
    if time is None:
        return ""
    seconds = -seconds_since(time)
    return f"in {duration(seconds)}" if seconds > 0 else "now"


def spent(start: Time | None, end: Time | None) -> str:
    """From start to end, or until now."""
    if start is None:
        return ""
    return duration((end - start).total_seconds() if end else seconds_since(start))


def clock(time: Time) -> str:
    """The local time of day."""
    return time.astimezone().strftime("%H:%M:%S")


def seconds_since(time: Time) -> float:
    return (dt.datetime.now(dt.UTC) - time).total_seconds()


def _coloured(cell: str, width: int) -> str:
    colour = _COLOURS.get(cell)
    padded = f"{cell:<{width}}"
    return click.style(cell, fg=colour) + padded[len(cell) :] if colour else padded
