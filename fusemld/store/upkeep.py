"""What retention asks the database: which runs may go, and what those that stay need."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from fusemld.store import outputs, reads

_RETRIABLE = "runs.state IN ('failed', 'cancelled')"
_HELD = f"(runs.finished_at IS NULL OR {_RETRIABLE})"
"""A run that goes on, or that can be made to."""
_STAYS = "runs.id NOT IN (SELECT value FROM json_each(:going))"
"""Runs that are going count for nothing, still stored or not: a dry run sees what a real one does."""


class Aged(msgspec.Struct, frozen=True, kw_only=True):
    """`going` are ended runs that may go, oldest first; the rest counts those that stay, by what keeps them."""

    going: tuple[str, ...]
    unfinished: int
    of_applications: int
    retriable: int
    recent: int


def aged(connection: sqlite3.Connection, *, before: float | None, keep: int | None) -> Aged:
    """Runs that ended before that time may go, and succeeded ones that are not among the `keep` that ended last;
    None: no limit. The run that an application is of stays, and any where there is one that cannot tell."""
    applications = reads.entries(connection, reads.APPLICATIONS)
    applied = {application.run for application in applications.readable}
    ended = connection.execute(
        f"SELECT id, finished_at, {_RETRIABLE} FROM runs WHERE finished_at IS NOT NULL"  # noqa: S608
        " ORDER BY finished_at DESC, id DESC"
    )
    going: list[str] = []
    of_applications = retriable = recent = 0
    for position, (run, finished_at, is_retriable) in enumerate(ended):
        is_old = before is not None and finished_at < before
        is_surplus = keep is not None and position >= keep
        if not is_old and not is_surplus:
            recent += 1
        elif applications.unreadable or run in applied:
            of_applications += 1
        elif is_retriable and not is_old:
            retriable += 1
        else:
            going.append(run)
    unfinished = connection.execute("SELECT count(*) FROM runs WHERE finished_at IS NULL").fetchone()[0]
    return Aged(
        going=tuple(reversed(going)),
        unfinished=unfinished,
        of_applications=of_applications,
        retriable=retriable,
        recent=recent,
    )


def known(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, float | None]:
    """When those of these runs that are stored ended, None where they have not."""
    marks = ",".join("?" * len(ids))
    return dict(connection.execute(f"SELECT id, finished_at FROM runs WHERE id IN ({marks})", ids))  # noqa: S608


def causes(connection: sqlite3.Connection, going: Collection[str]) -> set[str]:
    """Of all runs but those that are going."""
    found = connection.execute(f"SELECT cause FROM runs WHERE {_STAYS}", _parameters(going))  # noqa: S608
    return {str(row[0]) for row in found}


def unused_workflows(connection: sqlite3.Connection, going: Collection[str]) -> int:
    """How many contents no run refers to, but for those that are going."""
    used = {
        digest for run, digest in connection.execute("SELECT id, workflow_digest FROM runs") if run not in going
    }
    return sum(digest not in used for (digest,) in connection.execute("SELECT digest FROM workflows"))


def pinned_digests(connection: sqlite3.Connection, going: Collection[str]) -> set[str]:
    """The contents of codesets that runs need which go on, or which can be made to, and are not going. Raises
    `DamagedError` where one of them cannot tell."""
    return reads.pins(connection, f"{_HELD} AND {_STAYS}", _parameters(going))


def run_naming(connection: sqlite3.Connection, folder: Path, text: str, going: Collection[str]) -> str | None:
    """A run that goes on, or that can be made to, is not going, and has this text in an output, its inputs or its
    workflow; `folder` has the outputs that are in files. Raises `DamagedError` where one of them cannot tell."""
    row = connection.execute(
        f"SELECT runs.id FROM runs WHERE {_HELD} AND {_STAYS} AND ("  # noqa: S608
        "EXISTS (SELECT 1 FROM outputs WHERE outputs.run = runs.id AND instr(outputs.value, CAST(:text AS BLOB)))"
        " OR EXISTS (SELECT 1 FROM run_details"
        " WHERE run_details.run = runs.id AND instr(run_details.data, :text))"
        " OR EXISTS (SELECT 1 FROM workflows"
        " WHERE workflows.digest = runs.workflow_digest AND instr(workflows.canonical, :text))) LIMIT 1",
        {"text": text, **_parameters(going)},
    ).fetchone()
    if row is not None:
        return str(row[0])
    files = connection.execute(
        "SELECT output_files.run, file FROM output_files JOIN runs ON runs.id = output_files.run"  # noqa: S608
        f" WHERE {_HELD} AND {_STAYS}",
        _parameters(going),
    )
    sought = text.encode()
    return next((run for run, file in files if sought in outputs.content_of(folder, run, file)), None)


def _parameters(going: Collection[str]) -> dict[str, str]:
    return {"going": msgspec.json.encode(list(going)).decode()}
