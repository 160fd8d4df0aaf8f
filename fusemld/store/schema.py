"""The tables, and how an older database becomes a current one."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from fusemld.model import faults
from fusemld.model.errors import StartError
from fusemld.store import copying, outputs

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE workflows (digest TEXT PRIMARY KEY, name TEXT NOT NULL, canonical TEXT NOT NULL)",
        """CREATE TABLE runs (
            id TEXT PRIMARY KEY, workflow TEXT NOT NULL, workflow_digest TEXT NOT NULL, project TEXT NOT NULL,
            user TEXT NOT NULL, cause TEXT NOT NULL, executor TEXT NOT NULL, state TEXT NOT NULL,
            message TEXT NOT NULL, cancel_requested INTEGER NOT NULL, created_at REAL NOT NULL, finished_at REAL
        )""",
        "CREATE INDEX runs_by_time ON runs (created_at)",
        "CREATE INDEX runs_by_workflow ON runs (workflow, created_at)",
        "CREATE INDEX runs_unfinished ON runs (id) WHERE finished_at IS NULL",
        # What is long or seldom changes, so that a change of state does not rewrite it.
        """CREATE TABLE run_details (
            run TEXT PRIMARY KEY REFERENCES runs ON DELETE CASCADE, data TEXT NOT NULL
        )""",
        """CREATE TABLE steps (
            run TEXT NOT NULL REFERENCES runs ON DELETE CASCADE, name TEXT NOT NULL, state TEXT NOT NULL,
            data TEXT NOT NULL, PRIMARY KEY (run, name)
        ) WITHOUT ROWID""",
        # Of a step, or of the run where `step` is empty. Any bytes.
        """CREATE TABLE outputs (
            run TEXT NOT NULL REFERENCES runs ON DELETE CASCADE, step TEXT NOT NULL, name TEXT NOT NULL,
            value BLOB NOT NULL, PRIMARY KEY (run, step, name)
        )""",
        "CREATE TABLE documents (key TEXT PRIMARY KEY, data TEXT NOT NULL)",
        "CREATE TABLE applications (key TEXT PRIMARY KEY, data TEXT NOT NULL)",
        "CREATE TABLE services (key TEXT PRIMARY KEY, data TEXT NOT NULL)",
    ),
    # Files of the watched folder that need not be parsed again as long as they are the same.
    ("CREATE TABLE files (key TEXT PRIMARY KEY, data TEXT NOT NULL)",),
    (
        # Where the outputs of a step are that are long: see `fusemld.store.outputs`.
        """CREATE TABLE output_files (
            run TEXT NOT NULL REFERENCES runs ON DELETE CASCADE, step TEXT NOT NULL, file TEXT NOT NULL,
            PRIMARY KEY (run, step)
        ) WITHOUT ROWID""",
        # Outputs of a run that are outputs of such a step.
        """CREATE TABLE output_links (
            run TEXT NOT NULL REFERENCES runs ON DELETE CASCADE, name TEXT NOT NULL, step TEXT NOT NULL,
            output TEXT NOT NULL, PRIMARY KEY (run, name)
        ) WITHOUT ROWID""",
    ),
)
"""What leads from each schema version to the next; the number of them is the current version (`user_version`)."""

BACKUPS_KEPT = 3


def migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> None:
    """Bring the database to the current version in one transaction, so that it is never between two.

    A database that is not new is copied to `PATH.schema-N.TIME` first, of which the latest are kept. Raises
    `StartError` for one that a newer fusemld wrote: it is left as it is.
    """
    found = check_version(connection, path, migrations)
    if 0 < found < len(migrations):
        copying.copy(connection, copying.beside(path, f"schema-{found}"), outputs.beside(path))
        copying.keep_latest(path, "schema-*", BACKUPS_KEPT)
    upgrade(connection, migrations)


def check_version(
    connection: sqlite3.Connection, path: Path, migrations: Sequence[Sequence[str]] = MIGRATIONS
) -> int:
    """The version of the database. Raises `StartError` where that is newer than what this fusemld knows."""
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > len(migrations):
        raise StartError(
            f"cannot open the database {path}: a newer fusemld wrote it (schema {found}, this one knows "
            f"{len(migrations)}); start that fusemld, or use another state folder"
        )
    return found


def upgrade(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> None:
    """All that is left to do, in one transaction. Raises `sqlite3.Error`, with nothing done."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        found: int = connection.execute("PRAGMA user_version").fetchone()[0]
        for statements in migrations[found:]:
            for statement in statements:
                connection.execute(statement)
        if found < len(migrations):
            connection.execute(f"PRAGMA user_version = {len(migrations)}")
            faults.point("store.migrating")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
