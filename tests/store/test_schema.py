from __future__ import annotations

import re
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fusemld.model import faults
from fusemld.model.errors import StartError
from fusemld.store.schema import BACKUPS_KEPT, MIGRATIONS, migrate
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
    (backup,) = path.parent.glob("fusemld.db.*")
    assert re.fullmatch(r"fusemld\.db\.schema-1\.\d{8}T\d{6}Z", backup.name)
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    with closing(sqlite3.connect(backup)) as copy:
        assert copy.execute("SELECT * FROM notes").fetchall() == [("kept",)]
        assert version(copy) == 1


def test_of_the_copies_the_latest_are_kept(connection: sqlite3.Connection, path: Path) -> None:
    migrations: tuple[tuple[str, ...], ...] = OLDER
    migrate(connection, path, migrations)

    for number in range(BACKUPS_KEPT + 2):
        migrations = (*migrations, (f"CREATE TABLE later{number} (text TEXT)",))
        migrate(connection, path, migrations)

    names = sorted(file.name.split(".")[2] for file in path.parent.glob("fusemld.db.*"))
    assert names == [f"schema-{number}" for number in range(3, 3 + BACKUPS_KEPT)]


@pytest.mark.parametrize("steps", [1, 2])
def test_a_process_killed_in_a_migration_leaves_the_older_schema_whole(path: Path, steps: int) -> None:
    later = tuple((f"ALTER TABLE notes ADD COLUMN c{number} TEXT",) for number in range(steps))
    program = (
        "import sqlite3, sys, pathlib; from fusemld.store.schema import migrate\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "connection = sqlite3.connect(path, isolation_level=None)\n"
        "connection.execute('PRAGMA journal_mode = WAL')\n"
        f"migrate(connection, path, {OLDER!r})\nmigrate(connection, path, {OLDER + later!r})\n"
    )

    # The first migration of a new database reaches the point too.
    killed = subprocess.run(
        [sys.executable, "-c", program, str(path)], env={faults.VARIABLE: "store.migrating:2"}, check=False
    )

    assert killed.returncode == -signal.SIGKILL
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert version(connection) == 1
        assert connection.execute("SELECT * FROM notes").fetchall() == [("kept",)]
        migrate(connection, path, OLDER + later)
        assert version(connection) == 1 + steps
        assert len(connection.execute("SELECT * FROM notes").fetchone()) == 1 + steps


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
