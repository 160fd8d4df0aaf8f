"""What can be read. Every function runs in the thread of its connection, and sees one state of the database."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import immutables
import msgspec

from fusemld.model.application import Application
from fusemld.model.document import DocumentRecord, RememberedFile, Restoration
from fusemld.model.errors import InvalidInputError, NotFoundError
from fusemld.model.run import SUMMARY_LENGTH, Run, RunState, StepRun, StepState
from fusemld.model.service import ServiceRecord
from fusemld.store import outputs as output_files
from fusemld.store.codec import Decoder, from_bytes
from fusemld.store.errors import DamagedError
from fusemld.store.keys import RESTORATION
from fusemld.store.records import StoredRun, StoredStep

R = TypeVar("R", DocumentRecord, RememberedFile, Application, ServiceRecord)
S = TypeVar("S")

LATEST = "latest"
_CANDIDATES = 5

_run_data = Decoder(StoredRun)
_step_data = Decoder(StoredStep)
_restoration = Decoder(Restoration)


class Table(Generic[R]):
    """A table of records, each under its key."""

    def __init__(self, name: str, wanted: type[R]) -> None:
        self.name = name
        self.decode: Decoder[R] = Decoder(wanted)


DOCUMENTS = Table("documents", DocumentRecord)
APPLICATIONS = Table("applications", Application)
SERVICES = Table("services", ServiceRecord)
FILES = Table("files", RememberedFile)


class Entries(NamedTuple, Generic[S]):
    """What can be read of a table, in order of the keys, and why the rest of its keys cannot."""

    readable: list[S]
    unreadable: dict[str, DamagedError]


class DamagedRun(Run, frozen=True, kw_only=True):
    """What can be read of a run that cannot be read whole, to be shown, and to be left alone. A step of which
    nothing is known counts as running: it may be. `damage` says what cannot be read."""

    damage: str


class RunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Every field that is set must agree; `codeset` is the `PROJECT/NAME` of one that the run pinned. The steps of
    the runs in `without_steps` are not read. `summaries`: nor are outputs of steps, nor the long ones of runs."""

    workflow: str | None = None
    project: str | None = None
    state: RunState | None = None
    codeset: str | None = None
    limit: int = 100
    offset: int = 0
    without_steps: frozenset[str] = frozenset()
    summaries: bool = False


# Of runs, `folder` has the outputs that are in files.


def unfinished(connection: sqlite3.Connection, folder: Path) -> list[Run]:
    """In the order of their creation, with those that cannot be read whole as `DamagedRun`."""
    return _runs(connection, folder, "SELECT id FROM runs WHERE finished_at IS NULL", (), "created_at, id")


def run(connection: sqlite3.Connection, folder: Path, id: str) -> Run | None:  # noqa: A002
    return next(iter(_runs(connection, folder, "SELECT ?", (id,), "id")), None)


def runs(connection: sqlite3.Connection, folder: Path, query: RunQuery) -> list[Run]:
    """Newest first."""
    where, parameters = _where(query)
    chosen = f"SELECT id FROM runs {where} ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?"  # noqa: S608
    order = "created_at DESC, id DESC"
    return _runs(
        connection,
        folder,
        chosen,
        (*parameters, query.limit, query.offset),
        order,
        without_steps=query.without_steps,
        summaries=query.summaries,
    )


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


def entries(connection: sqlite3.Connection, table: Table[R]) -> Entries[R]:
    found: Entries[R] = Entries([], {})
    rows = connection.execute(f"SELECT key, CAST(data AS BLOB) FROM {table.name} ORDER BY key")  # noqa: S608
    for key, data in rows:
        try:
            found.readable.append(table.decode(data))
        except DamagedError as error:
            found.unreadable[key] = DamagedError.of(table.name, key, error.__cause__)
    return found


def records(connection: sqlite3.Connection, table: Table[R]) -> list[R]:
    """All records of a table, in order of their keys. Raises `DamagedError`."""
    found = entries(connection, table)
    for error in found.unreadable.values():
        raise error
    return found.readable


def restoration(connection: sqlite3.Connection) -> Restoration | None:
    """Raises `DamagedError`: without it nobody can tell what has run already."""
    found = meta(connection, RESTORATION)
    try:
        return None if found is None else _restoration(found)
    except DamagedError as error:
        raise DamagedError.of("meta", RESTORATION, error.__cause__) from error


def pins(connection: sqlite3.Connection, where: str, parameters: Mapping[str, str]) -> set[str]:
    """The digests of the codesets of the runs of which that is true. Raises `DamagedError`."""
    found: set[str] = set()
    rows = connection.execute(
        "SELECT run_details.run, CAST(data AS BLOB) FROM runs JOIN run_details ON run_details.run = runs.id"  # noqa: S608
        f" WHERE {where}",
        parameters,
    )
    for run_id, data in rows:
        found |= {pinned.digest for pinned in (_details(run_id, data).codesets or {}).values()}
    return found


def _where(query: RunQuery) -> tuple[str, list[str]]:
    columns = {"workflow": query.workflow, "project": query.project, "state": query.state}
    terms = [f"{column} = ?" for column, value in columns.items() if value is not None]
    parameters = [str(value) for value in columns.values() if value is not None]
    if query.codeset is not None:
        terms.append(
            "EXISTS (SELECT 1 FROM run_details, json_each("
            "CASE WHEN json_valid(run_details.data) THEN run_details.data ELSE '{}' END, '$.codesets') AS pin"
            " WHERE run_details.run = runs.id AND pin.type = 'object'"
            " AND json_extract(pin.value, '$.project') || '/' || json_extract(pin.value, '$.name') = ?)"
        )
        parameters.append(query.codeset)
    return ("WHERE " + " AND ".join(terms) if terms else ""), parameters


def _runs(
    connection: sqlite3.Connection,
    folder: Path,
    chosen: str,
    parameters: Sequence[object],
    order: str,
    *,
    without_steps: frozenset[str] = frozenset(),
    summaries: bool = False,
) -> list[Run]:
    """The runs whose ids the statement `chosen` gives, with their steps."""
    left_out = msgspec.json.encode(sorted(without_steps)).decode()

    def of_steps(columns: str, table: str, condition: str = "") -> sqlite3.Cursor:
        return connection.execute(
            f"SELECT {columns} FROM {table} WHERE run IN ({chosen})"  # noqa: S608
            f" AND run NOT IN (SELECT value FROM json_each(?)) {condition}",
            (*parameters, left_out),
        )

    connection.execute("BEGIN")
    try:
        outputs = _short_outputs(of_steps) if summaries else _outputs(of_steps, folder)
        damages = outputs.damages
        steps: defaultdict[str, dict[str, StepRun]] = defaultdict(dict)
        for run_id, name, state, data in of_steps("run, name, state, CAST(data AS BLOB)", "steps"):
            try:
                stored, known_state = _step(run_id, name, state, data)
            except DamagedError as error:
                damages.setdefault(run_id, error)
                stored, known_state = StoredStep(reason=str(error)), _possible_state(state)
            key = run_id, name
            steps[run_id][name] = stored.step(
                name, known_state, outputs.values.get(key, {}), outputs.files.get(key, "")
            )
        rows = connection.execute(
            f"""SELECT id, workflow, workflow_digest, project, user, cause, executor, created_at, finished_at,
            state, message, cancel_requested, CAST(data AS BLOB) FROM runs LEFT JOIN run_details ON run = id
            WHERE id IN ({chosen}) ORDER BY {order}""",  # noqa: S608
            parameters,
        ).fetchall()
    finally:
        connection.execute("COMMIT")
    # A file that is not there any more may have gone with its run.
    gone = {run_id for run_id in damages if not _is_there(connection, run_id)}
    return [
        _run(row, steps[row[0]], outputs.values.get((row[0], ""), {}), damages.get(row[0]))
        for row in rows
        if row[0] not in gone
    ]


class _Outputs(NamedTuple):
    """By run and step, those of the runs themselves under the step ""."""

    values: defaultdict[tuple[str, str], dict[str, str]]
    files: dict[tuple[str, str], str]
    damages: dict[str, DamagedError]
    """By run."""


def _short_outputs(of_steps: Callable[[str, str, str], sqlite3.Cursor]) -> _Outputs:
    """Of the runs themselves."""
    found = _Outputs(defaultdict(dict), {}, {})
    longest_bytes = 4 * SUMMARY_LENGTH
    are_short = f"AND step = '' AND length(value) <= {longest_bytes}"
    for run_id, name, value in of_steps("run, name, value", "outputs", are_short):
        found.values[run_id, ""][name] = from_bytes(value)
    return found


def _outputs(of_steps: Callable[[str, str], sqlite3.Cursor], folder: Path) -> _Outputs:
    """`of_steps` selects columns of a table."""
    found = _Outputs(defaultdict(dict), {}, {})
    for run_id, step, name, value in of_steps("run, step, name, value", "outputs"):
        found.values[run_id, step][name] = from_bytes(value)
    for run_id, step, file in of_steps("run, step, file", "output_files"):
        found.files[run_id, step] = file
        try:
            found.values[run_id, step] = output_files.read(folder, run_id, file)
        except DamagedError as error:
            found.damages.setdefault(run_id, error)
    for run_id, name, step, output in of_steps("run, name, step, output", "output_links"):
        value = found.values[run_id, step].get(output)
        if value is None:
            damage = DamagedError.of("output_links", f"{run_id}/{name}", f"step {step} has no output {output}")
            found.damages.setdefault(run_id, damage)
        else:
            found.values[run_id, ""][name] = value
    return found


def _is_there(connection: sqlite3.Connection, run_id: str) -> bool:
    return connection.execute("SELECT 1 FROM runs WHERE id = ?", (run_id,)).fetchone() is not None


def _step(run_id: str, name: str, state: str, data: bytes) -> tuple[StoredStep, StepState]:
    try:
        return _step_data(data), StepState(state)
    except DamagedError as error:
        raise DamagedError.of("steps", f"{run_id}/{name}", error.__cause__) from error
    except ValueError as error:
        raise DamagedError.of("steps", f"{run_id}/{name}", error) from error


def _possible_state(state: str) -> StepState:
    return StepState(state) if state in set(StepState) else StepState.RUNNING


def _details(run_id: str, data: bytes | None) -> StoredRun:
    if data is None:
        raise DamagedError.of("run_details", run_id, "it is not there")
    try:
        return _run_data(data)
    except DamagedError as error:
        raise DamagedError.of("run_details", run_id, error.__cause__) from error


def _run(
    row: Sequence[Any], steps: dict[str, StepRun], outputs: dict[str, str], damage: DamagedError | None
) -> Run:
    run_id, data, state = row[0], row[-1], row[9]
    details = StoredRun()
    try:
        details = _details(run_id, data)
    except DamagedError as error:
        damage = damage or error
    if state not in set(RunState):
        damage = damage or DamagedError.of("runs", run_id, f"{state!r} is not a valid RunState")
        row = [*row[:9], RunState.RUNNING if row[8] is None else RunState.FAILED, *row[10:]]
    run = _assembled(row, details, steps, outputs)
    if damage is None:
        return run
    known = {name: getattr(run, name) for name in run.__struct_fields__}
    return DamagedRun(**known | {"message": str(damage)}, damage=str(damage))


def _assembled(row: Sequence[Any], details: StoredRun, steps: dict[str, StepRun], outputs: dict[str, str]) -> Run:
    run_id, workflow, digest, project, user, cause, executor, created, finished, state, message, cancel, _ = row
    return Run(
        id=run_id,
        workflow=workflow,
        workflow_digest=digest,
        project=project,
        user=user,
        cause=cause,
        executor=executor,
        inputs=details.inputs,
        created_at=created,
        finished_at=finished,
        state=RunState(state),
        message=message,
        cancel_requested=bool(cancel),
        codesets=details.codesets,
        steps=immutables.Map(steps),
        outputs=outputs,
    )
