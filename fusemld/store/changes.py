"""What can be written, and the statements for it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import assert_never

import msgspec

from fusemld.model.application import Application
from fusemld.model.document import DocumentRecord, RememberedFile
from fusemld.model.run import Run, StepRun
from fusemld.model.service import ServiceRecord
from fusemld.store.codec import encode, to_bytes, to_text
from fusemld.store.records import StoredRun, StoredStep


class PutRun(msgspec.Struct, frozen=True):
    """Insert the run with all its steps (`changed` None), or update it and the steps that changed.

    `before` is the run as it is stored: what does not differ from it is not written again.
    """

    run: Run
    changed: tuple[str, ...] | None = None
    before: Run | None = None


class DeleteRuns(msgspec.Struct, frozen=True):
    """Runs that have ended, with all that is stored of them; others are left alone."""

    ids: tuple[str, ...]


class DeleteUnusedWorkflows(msgspec.Struct, frozen=True):
    """Contents that no stored run refers to."""


class PutWorkflow(msgspec.Struct, frozen=True):
    """The content that runs refer to by its digest; the same digest is never written twice."""

    digest: str
    name: str
    canonical: str


class PutDocument(msgspec.Struct, frozen=True):
    record: DocumentRecord


class DeleteDocument(msgspec.Struct, frozen=True):
    key: str


class PutFile(msgspec.Struct, frozen=True):
    file: RememberedFile


class DeleteFile(msgspec.Struct, frozen=True):
    path: str


class PutApplication(msgspec.Struct, frozen=True):
    application: Application


class DeleteApplication(msgspec.Struct, frozen=True):
    name: str


class PutService(msgspec.Struct, frozen=True):
    record: ServiceRecord


class DeleteService(msgspec.Struct, frozen=True):
    name: str


class PutMeta(msgspec.Struct, frozen=True):
    key: str
    value: str


Change = (
    PutRun
    | DeleteRuns
    | PutWorkflow
    | DeleteUnusedWorkflows
    | PutDocument
    | DeleteDocument
    | PutFile
    | DeleteFile
    | PutApplication
    | DeleteApplication
    | PutService
    | DeleteService
    | PutMeta
)


def apply(connection: sqlite3.Connection, change: Change) -> None:
    """Execute the change within the transaction of the connection. Raises `sqlite3.Error`."""
    match change:
        case PutRun(run, changed, before):
            if changed is None:
                _insert_run(connection, run)
            else:
                _update_run(connection, run, changed, before)
        case DeleteRuns(ids):
            statement = "DELETE FROM runs WHERE id = ? AND finished_at IS NOT NULL"
            connection.executemany(statement, [(id,) for id in ids])  # noqa: A001
        case DeleteUnusedWorkflows():
            connection.execute("DELETE FROM workflows WHERE digest NOT IN (SELECT workflow_digest FROM runs)")
        case PutWorkflow():
            connection.execute(
                "INSERT OR IGNORE INTO workflows (digest, name, canonical) VALUES (?, ?, ?)",
                (change.digest, change.name, change.canonical),
            )
        case PutDocument(record):
            _put(connection, "documents", record.key, record)
        case DeleteDocument(key):
            _delete(connection, "documents", key)
        case PutFile(file):
            _put(connection, "files", file.path, file)
        case DeleteFile(path):
            _delete(connection, "files", path)
        case PutApplication(application):
            _put(connection, "applications", application.name, application)
        case DeleteApplication(name):
            _delete(connection, "applications", name)
        case PutService(record):
            _put(connection, "services", record.name, record)
        case DeleteService(name):
            _delete(connection, "services", name)
        case PutMeta(key, value):
            connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))
        case _:
            assert_never(change)


def _insert_run(connection: sqlite3.Connection, run: Run) -> None:
    connection.execute(
        "INSERT INTO runs (id, workflow, workflow_digest, project, user, cause, executor, created_at,"
        " state, message, cancel_requested, finished_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            run.id,
            run.workflow,
            run.workflow_digest,
            run.project,
            run.user,
            to_text(run.cause),
            run.executor,
            run.created_at,
            *_state(run),
        ),
    )
    _put_details(connection, run)
    _put_run_outputs(connection, run)
    _put_steps(connection, run.id, run.steps.values())


def _update_run(connection: sqlite3.Connection, run: Run, changed: tuple[str, ...], before: Run | None) -> None:
    state = _state(run)
    if before is None or state != _state(before):
        connection.execute(
            "UPDATE runs SET state = ?, message = ?, cancel_requested = ?, finished_at = ? WHERE id = ?",
            (*state, run.id),
        )
    if before is None or (run.inputs, run.codesets) != (before.inputs, before.codesets):
        _put_details(connection, run)
    if run.finished_at is not None:
        _put_run_outputs(connection, run)
    _put_steps(connection, run.id, [run.steps[name] for name in changed])


def _state(run: Run) -> tuple[str, str, bool, float | None]:
    return run.state.value, to_text(run.message), run.cancel_requested, run.finished_at


def _put_details(connection: sqlite3.Connection, run: Run) -> None:
    data = encode(StoredRun(inputs=run.inputs, codesets=run.codesets))
    connection.execute(
        "INSERT INTO run_details (run, data) VALUES (?, ?) ON CONFLICT (run) DO UPDATE SET data = excluded.data",
        (run.id, data),
    )


def _put_steps(connection: sqlite3.Connection, run: str, steps: Iterable[StepRun]) -> None:
    steps = tuple(steps)
    connection.executemany(
        "INSERT INTO steps (run, name, state, data) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (run, name) DO UPDATE SET state = excluded.state, data = excluded.data",
        [(run, step.name, step.state.value, encode(StoredStep.of(step))) for step in steps],
    )
    for step in steps:
        if step.outputs_file:
            connection.execute(
                "INSERT OR REPLACE INTO output_files (run, step, file) VALUES (?, ?, ?)",
                (run, step.name, step.outputs_file),
            )
        else:
            _put_outputs(connection, run, step.name, step.outputs)


def _put_run_outputs(connection: sqlite3.Connection, run: Run) -> None:
    """Those that a step has in a file are only named: the very same objects, as the engine hands them on."""
    kept = {
        id(value): (step.name, name)
        for step in run.steps.values()
        if step.outputs_file
        for name, value in step.outputs.items()
    }
    links = {name: kept[id(value)] for name, value in run.outputs.items() if id(value) in kept}
    connection.execute("DELETE FROM output_links WHERE run = ?", (run.id,))
    if links:
        connection.executemany(
            "INSERT INTO output_links (run, name, step, output) VALUES (?, ?, ?, ?)",
            [(run.id, name, step, output) for name, (step, output) in links.items()],
        )
    others = {name: value for name, value in run.outputs.items() if name not in links}
    _put_outputs(connection, run.id, "", others)


def _put_outputs(connection: sqlite3.Connection, run: str, step: str, outputs: dict[str, str]) -> None:
    if not outputs:
        return
    connection.executemany(
        "INSERT OR REPLACE INTO outputs (run, step, name, value) VALUES (?, ?, ?, ?)",
        [(run, step, name, to_bytes(value)) for name, value in outputs.items()],
    )


def _put(connection: sqlite3.Connection, table: str, key: str, record: msgspec.Struct) -> None:
    connection.execute(f"INSERT OR REPLACE INTO {table} (key, data) VALUES (?, ?)", (key, encode(record)))  # noqa: S608 - our own names


def _delete(connection: sqlite3.Connection, table: str, key: str) -> None:
    connection.execute(f"DELETE FROM {table} WHERE key = ?", (key,))  # noqa: S608 - our own names
