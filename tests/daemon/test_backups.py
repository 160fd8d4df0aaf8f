from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fusemld.daemon.backups import Backups
from fusemld.model.errors import UnavailableError
from fusemld.store.changes import PutMeta
from fusemld.store.keys import COPIED_AT
from fusemld.store.sqlite import Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fusemld.db"


async def test_a_copy_is_a_database_of_its_own_and_leaves_nothing_here(path: Path, tmp_path: Path) -> None:
    async with Store.open(path) as store:
        await store.write(PutMeta("note", "x" * 3_000_000))
        content = b"".join([chunk async for chunk in await Backups(store, tmp_path / "backups").make()])

    copy = tmp_path / "copy.db"
    copy.write_bytes(content)
    with closing(sqlite3.connect(copy)) as connection:
        found = dict(connection.execute("SELECT key, value FROM meta"))
    assert found["note"] == "x" * 3_000_000
    assert float(found[COPIED_AT]) > 0
    assert list((tmp_path / "backups").iterdir()) == []


async def test_what_a_killed_daemon_left_is_removed(path: Path, tmp_path: Path) -> None:
    leftover = tmp_path / "backups" / ".x.db.partial"
    leftover.parent.mkdir()
    leftover.write_text("half")

    async with Store.open(path) as store:
        Backups(store, tmp_path / "backups")

    assert not leftover.exists()


async def test_a_damaged_database_gives_no_copy(path: Path, tmp_path: Path) -> None:
    async with Store.open(path) as store:
        await store.write(*(PutMeta(f"note {number}", "x" * 1000) for number in range(500)))
    content = bytearray(path.read_bytes())
    half = len(content) // 2 // 4096 * 4096
    content[half : half + 4096] = b"\xff" * 4096
    path.write_bytes(content)

    async with Store.open(path) as store:
        with pytest.raises(UnavailableError, match="cannot back up the database: it is damaged"):
            await Backups(store, tmp_path / "backups").make()

    assert list((tmp_path / "backups").iterdir()) == []
