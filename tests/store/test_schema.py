from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fusemld.model.errors import StartError
from fusemld.store.schema import MIGRATIONS, migrate
from fusemld.store.sqlite import Store

OLDER = (("CREATE TABLE notes (text TEXT)", "INSERT INTO notes VALUES ('kept')"),)
NEWER = (*OLDER, ("ALTER TABLE notes ADD COLUMN author TEXT DEFAULT 'nobody'",))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fusemld.db"


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def test_an_older_database_is_copied_then_brought_up_to_date(connection: sqlite3.Connection, path: Path) -> None:
    migrate(connection, path, OLDER)

    migrate(connection, path, NEWER)

    assert connection.execute("SELECT * FROM notes").fetchall() == [("kept", "nobody")]
    assert version(connection) == 2
    with closing(sqlite3.connect(path.with_name("fusemld.db.schema-1"))) as copy:
        assert copy.execute("SELECT * FROM notes").fetchall() == [("kept",)]
        assert version(copy) == 1


def test_a_current_database_is_left_alone(connection: sqlite3.Connection, path: Path) -> None:
    migrate(connection, path)

    migrate(connection, path)

    assert version(connection) == len(MIGRATIONS)
    assert [file.name for file in path.parent.iterdir()] == ["fusemld.db"]


def test_a_migration_that_fails_leaves_the_older_schema(connection: sqlite3.Connection, path: Path) -> None:
    migrate(connection, path, OLDER)
    broken = (*OLDER, ("ALTER TABLE notes ADD COLUMN author TEXT", "this is not SQL"))

    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, path, broken)

    assert version(connection) == 1
    assert connection.execute("SELECT * FROM notes").fetchall() == [("kept",)]


async def test_the_database_of_a_newer_fusemld_is_refused_and_left_as_it_is(path: Path) -> None:
    async with Store.open(path):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1000")
    before = path.read_bytes()

    with pytest.raises(StartError, match=r"a newer fusemld wrote it \(schema 1000, this one knows \d+\)"):
        async with Store.open(path):
            pass

    assert path.read_bytes() == before
