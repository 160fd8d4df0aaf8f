from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fusemld.daemon.lifecycle import stop_everything
from fusemld.daemon.locking import state_lock
from fusemld.daemon.ownership import as_owner, refuse_another
from fusemld.daemon.settings import load_settings
from fusemld.model.errors import StartError
from fusemld.store.restoring import restore
from fusemld.store.sqlite import Store

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """Of the user nobody."""
    ours = Path(tempfile.gettempdir())
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to(ours) and folder != ours:
            folder.chmod(0o755)  # whose folder it is must be able to get there
    made = tmp_path / "state"
    made.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(made, NOBODY, NOBODY)
    yield made
    assert {path.stat().st_uid for path in (made, *made.iterdir())} == {made.stat().st_uid}


@as_root
def test_what_root_makes_as_the_owner_belongs_to_the_owner(state: Path) -> None:
    before = os.getgroups()

    with as_owner(state):
        made = state / "made"
        made.touch()
        with as_owner(state):
            assert (os.geteuid(), os.getegid(), os.getgroups()) == (NOBODY, NOBODY, [])
        assert os.geteuid() == NOBODY

    assert (made.stat().st_uid, made.stat().st_gid) == (NOBODY, NOBODY)
    assert (os.geteuid(), os.getegid(), os.getgroups()) == (0, 0, before)


@as_root
def test_root_starts_no_daemon_in_the_folder_of_somebody_else(state: Path) -> None:
    with pytest.raises(StartError, match="it belongs to the user nobody; start the daemon as nobody"):
        refuse_another(state)


def test_ones_own_folder_and_one_that_is_not_there_are_nobody_elses(tmp_path: Path) -> None:
    refuse_another(tmp_path)
    refuse_another(tmp_path / "missing")
    with as_owner(tmp_path), as_owner(tmp_path / "missing"):
        assert os.geteuid() == os.getuid()


def test_the_lock_of_a_folder_belongs_to_its_owner(state: Path) -> None:
    with state_lock(state):
        assert (state / "daemon.lock").exists()


async def test_nothing_is_ended_where_no_daemon_has_ever_been(state: Path, tmp_path: Path) -> None:
    there, missing = (
        load_settings(flags={"state": str(folder)}, environ={}).settings
        for folder in (state, tmp_path / "missing")
    )

    assert not await stop_everything(there)
    assert not await stop_everything(missing)
    assert not (tmp_path / "missing").exists()


async def test_a_database_that_root_restores_belongs_to_the_owner_of_the_folder(
    state: Path, tmp_path: Path
) -> None:
    async with Store.open(tmp_path / "fusemld.db") as store:
        await store.back_up(tmp_path / "copy.db")

    restore(tmp_path / "copy.db", state / "fusemld.db", time.time())

    with closing(sqlite3.connect(f"file:{state / 'fusemld.db'}?mode=ro", uri=True)) as restored:
        assert restored.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
