"""What can be read. Every function runs in the thread of its connection, and sees one state of the database."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

import immutables
import msgspec

from fusemld.model.application import Application
from fusemld.model.document import DocumentRecord, RememberedFile, Restoration
from fusemld.model.errors import InvalidInputError, NotFoundError
from fusemld.model.run import Run, RunState, StepRun, StepState
from fusemld.model.service import ServiceRecord
from fusemld.store.codec import Decoder, from_bytes
from fusemld.store.records import StoredRun, StoredStep

R = TypeVar("R", DocumentRecord, RememberedFile, Application, ServiceRecord)

LATEST = "latest"
_CANDIDATES = 5

_run_data = Decoder(StoredRun)
_step_data = Decoder(StoredStep)
document = Decoder(DocumentRecord)
application = Decoder(Application)
service = Decoder(ServiceRecord)
remembered_file = Decoder(RememberedFile)
restoration = Decoder(Restoration)


class RunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Every field that is set must agree; `codeset` is the `PROJECT/NAME` of one that the run pinned. The steps of
    the runs in `without_steps` are not read."""

    workflow: str | None = None
    project: str | None = None
    state: RunState | None = None
    codeset: str | None = None
    limit: int = 100
    offset: int = 0
    without_steps: frozenset[str] = frozenset()


def unfinished(connection: sqlite3.Connection) -> list[Run]:
    """In the order of their creation."""
    return _runs(connection, "SELECT id FROM runs WHERE finished_at IS NULL", (), "created_at, id")


def run(connection: sqlite3.Connection, id: str) -> Run | None:  # noqa: A002
    return next(iter(_runs(connection, "SELECT ?", (id,), "id")), None)


def runs(connection: sqlite3.Connection, query: RunQuery) -> list[Run]:
    """Newest first."""
    where, parameters = _where(query)
    chosen = f"SELECT id FROM runs {where} ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?"  # noqa: S608
    order = "created_at DESC, id DESC"
    return _runs(connection, chosen, (*parameters, query.limit, query.offset), order, query.without_steps)


def count(connection: sqlite3.Connection, query: RunQuery) -> int:
    where, parameters = _where(query)
    return int(connection.execute(f"SELECT count(*) FROM runs {where}", parameters).fetchone()[0])  # noqa: S608


def find(connection: sqlite3.Connection, text: str) -> str:
    """The id of the run that a person means by its id, the beginning or the end of it, or `latest`.

    Raises `NotFoundError`, and `InvalidInputError` with candidates where it could be several.
    """
    if text == LATEST:
        newest = connection.execute("SELECT id FROM runs ORDER BY created_at DESC, id DESC LIMIT 1").fetchone()
        if newest is None:
            raise NotFoundError("cannot find the latest run: there are no runs yet")
        return str(newest[0])
    if connection.execute("SELECT 1 FROM runs WHERE id = ?", (text,)).fetchone():
        return text
    matching = [
        str(candidate)
        for (candidate,) in connection.execute(
            "SELECT id FROM runs WHERE ? <> '' AND (substr(id, 1, length(?)) = ? OR substr(id, -length(?)) = ?)"
            " ORDER BY created_at DESC LIMIT ?",
            (text, text, text, text, text, _CANDIDATES + 1),
        )
    ]
    if not matching:
        raise NotFoundError(f"cannot find run {text!r}: no run has an id that begins or ends with it")
    if len(matching) > 1:
        more = " and others" if len(matching) > _CANDIDATES else ""
        raise InvalidInputError(f"cannot tell which run {text!r} means: {', '.join(matching[:_CANDIDATES])}{more}")
    return matching[0]


def workflow(connection: sqlite3.Connection, digest: str) -> str | None:
    row = connection.execute("SELECT canonical FROM workflows WHERE digest = ?", (digest,)).fetchone()
    return None if row is None else str(row[0])


def meta(connection: sqlite3.Connection, key: str) -> str | None:
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def records(connection: sqlite3.Connection, table: str, decode: Decoder[R]) -> list[R]:
    """All records of a table, in order of their keys."""
    return [decode(data) for (data,) in connection.execute(f"SELECT data FROM {table} ORDER BY key")]  # noqa: S608


def _where(query: RunQuery) -> tuple[str, list[str]]:
    columns = {"workflow": query.workflow, "project": query.project, "state": query.state}
    terms = [f"{column} = ?" for column, value in columns.items() if value is not None]
    parameters = [str(value) for value in columns.values() if value is not None]
    if query.codeset is not None:
        terms.append(
            "EXISTS (SELECT 1 FROM run_details, json_each(run_details.data, '$.codesets') AS pin"
            " WHERE run_details.run = runs.id"
            " AND json_extract(pin.value, '$.project') || '/' || json_extract(pin.value, '$.name') = ?)"
        )
        parameters.append(query.codeset)
    return ("WHERE " + " AND ".join(terms) if terms else ""), parameters


def _runs(
    connection: sqlite3.Connection,
    chosen: str,
    parameters: Sequence[object],
    order: str,
    without_steps: frozenset[str] = frozenset(),
) -> list[Run]:
    """The runs whose ids the statement `chosen` gives, with their steps."""
    left_out = msgspec.json.encode(sorted(without_steps)).decode()
    unwanted = "AND run NOT IN (SELECT value FROM json_each(?))"
    connection.execute("BEGIN")
    try:
        outputs: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        for run_id, step, name, value in connection.execute(
            f"SELECT run, step, name, value FROM outputs WHERE run IN ({chosen}) {unwanted}",  # noqa: S608
            (*parameters, left_out),
        ):
            outputs[run_id, step][name] = from_bytes(value)
        steps: defaultdict[str, dict[str, StepRun]] = defaultdict(dict)
        for run_id, name, state, data in connection.execute(
            f"SELECT run, name, state, data FROM steps WHERE run IN ({chosen}) {unwanted}",  # noqa: S608
            (*parameters, left_out),
        ):
            steps[run_id][name] = _step_data(data).step(name, StepState(state), outputs.get((run_id, name), {}))
        rows = connection.execute(
            f"""SELECT id, workflow, workflow_digest, project, user, cause, executor, created_at, finished_at,
            state, message, cancel_requested, data FROM runs JOIN run_details ON run = id
            WHERE id IN ({chosen}) ORDER BY {order}""",  # noqa: S608
            parameters,
        )
        return [_run(row, steps[row[0]], outputs.get((row[0], ""), {})) for row in rows]
    finally:
        connection.execute("COMMIT")


def _run(row: Sequence[object], steps: dict[str, StepRun], outputs: dict[str, str]) -> Run:
    run_id, workflow, digest, project, user, cause, executor, created, finished, *rest = row
    state, message, cancel, data = rest
    details = _run_data(str(data))
    return Run(
        id=str(run_id),
        workflow=str(workflow),
        workflow_digest=str(digest),
        project=str(project),
        user=str(user),
        cause=str(cause),
        executor=str(executor),
        inputs=details.inputs,
        created_at=float(str(created)),
        finished_at=None if finished is None else float(str(finished)),
        state=RunState(str(state)),
        message=str(message),
        cancel_requested=bool(cancel),
        codesets=details.codesets,
        steps=immutables.Map(steps),
        outputs=outputs,
    )
