"""Outputs that are too long for the database."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import immutables
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from fusemld.model import faults
from fusemld.model.run import LONG_OUTPUTS, Run, RunState, StepRun, StepState
from fusemld.store import copying, outputs
from fusemld.store.changes import DeleteRuns, PutRun
from fusemld.store.errors import DamagedError, StoreError
from fusemld.store.outputs import PARTIAL
from fusemld.store.reads import DamagedRun, RunQuery
from fusemld.store.restoring import restore
from fusemld.store.sqlite import Store

LONG = "a\nÜ\udcff" * LONG_OUTPUTS
"""Of several parts, whose borders are in the middle of nothing that belongs together."""
WORDS = {"long": LONG, "short": "word"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fusemld.db"


def run_of(run_id: str = "r1", **step: object) -> Run:
    made = StepRun(name="s", state=StepState.SUCCEEDED, outputs=WORDS)
    return Run(
        id=run_id,
        workflow="w",
        workflow_digest="d",
        created_at=1.0,
        steps=immutables.Map({"s": replace(made, **step)}),
    )


def ended(run: Run, **given: str) -> Run:
    return replace(run, state=RunState.SUCCEEDED, finished_at=2.0, outputs=given)


async def kept(store: Store, run_id: str = "r1", **given: str) -> Run:
    """A run whose step has long outputs, stored."""
    values = given or WORDS
    run = run_of(run_id, outputs=values, outputs_file=await store.keep_outputs(run_id, values))
    await store.write(PutRun(run))
    return run


def size_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size


async def test_they_are_in_a_private_file_and_come_back_to_the_byte(path: Path) -> None:
    async with Store.open(path) as store:
        before = size_of(path)
        run = await kept(store)

        assert run.steps["s"].outputs_file
        assert await store.run("r1") == run
        assert await store.unfinished_runs() == [run]
        assert size_of(path) == before
        (file,) = store.outputs_folder.glob("*/*")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert {stat.S_IMODE(folder.stat().st_mode) for folder in file.parents[:2]} == {0o700}
        assert LONG.encode("utf-8", "surrogateescape") in file.read_bytes()


async def test_short_ones_stay_in_the_database(path: Path) -> None:
    async with Store.open(path) as store:
        run = await kept(store, a="x" * (LONG_OUTPUTS - 2), b="")

        assert run.steps["s"].outputs_file == ""
        assert await store.run("r1") == run
        assert not store.outputs_folder.exists()


@pytest.mark.parametrize("count", [2, 1000])
async def test_many_short_ones_are_long_together(path: Path, count: int) -> None:
    given = {f"o{number}": "x" * (LONG_OUTPUTS // count + 1) for number in range(count)}
    async with Store.open(path) as store:
        run = await kept(store, **given)

        assert run.steps["s"].outputs_file
        assert await store.run("r1") == run


async def test_what_a_run_hands_on_of_them_is_not_stored_again(path: Path) -> None:
    async with Store.open(path) as store:
        before = size_of(path)
        run = ended(await kept(store), result=LONG, other="of the run")
        await store.write(PutRun(run, ()))

        assert await store.run("r1") == run
        assert size_of(path) == before


async def test_what_is_changed_later_is_written_once(path: Path) -> None:
    async with Store.open(path) as store:
        run = await kept(store)
        again = replace(run, steps=run.steps.set("s", replace(run.steps["s"], reason="another")))
        await store.write(PutRun(again, ("s",), run))

        assert await store.run("r1") == again
        assert len(list(store.outputs_folder.glob("*/*"))) == 1


@pytest.mark.parametrize("what", ["gone", "changed", "cut"])
async def test_a_run_whose_file_is_not_what_it_was_is_damaged_and_no_other(path: Path, what: str) -> None:
    async with Store.open(path) as store:
        run = await kept(store)
        other = await kept(store, "r2")
        await store.write(PutRun(ended(run, result=LONG), ()))
        (file,) = (store.outputs_folder / "r1").iterdir()
        content = file.read_bytes()
        file.unlink()
        if what != "gone":
            file.write_bytes(content[:-1] + (b"?" if what == "changed" else b""))

        damaged = await store.run("r1")
        assert isinstance(damaged, DamagedRun)
        assert damaged.damage.startswith("cannot read outputs of run r1: ")
        assert str(file) in damaged.damage
        assert damaged.steps["s"].state is StepState.SUCCEEDED
        assert await store.run("r2") == other


async def test_a_summary_needs_no_file(path: Path) -> None:
    async with Store.open(path) as store:
        run = await kept(store)
        await store.write(PutRun(ended(run, long=LONG, short="of the run"), ()))
        shutil.rmtree(store.outputs_folder)

        (summary,) = await store.runs(RunQuery(summaries=True))

        assert summary.outputs == {"short": "of the run"}
        assert (summary.steps["s"].state, summary.steps["s"].outputs) == (StepState.SUCCEEDED, {})


async def test_a_run_that_goes_while_it_is_read_is_not_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Store.open(path) as store:
        run = await kept(store)
        other = await kept(store, "r2")
        await store.write(PutRun(ended(run), ()))
        monkeypatch.setattr(outputs, "read", _gone_first(path, "r1"))

        assert [run.id for run in await store.runs()] == [other.id]


def _gone_first(path: Path, going: str) -> object:
    """Retention is quicker than who reads this run."""
    read = outputs.read

    def gone_first(folder: Path, run: str, name: str) -> dict[str, str]:
        if run == going:
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute("DELETE FROM runs WHERE id = ?", (run,))
            shutil.rmtree(folder / run)
        return read(folder, run, name)

    return gone_first


async def test_they_go_with_their_run_from_the_database(path: Path) -> None:
    async with Store.open(path) as store:
        await store.write(PutRun(ended(await kept(store), result=LONG), ()), DeleteRuns(("r1",)))
        await store.write(DeleteRuns(("r1",)))

    with closing(sqlite3.connect(path)) as connection:
        for table in ("output_files", "output_links"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == 0


async def test_a_copy_has_them_in_it(path: Path, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere" / "copy.db"
    alone.parent.mkdir()
    async with Store.open(path) as store:
        run = ended(await kept(store), result=LONG)
        await store.write(PutRun(run, ()))
        await store.back_up(alone)
        assert await store.run("r1") == run

    async with Store.open(alone) as copy:
        step = replace(run.steps["s"], outputs_file="")
        assert await copy.run("r1") == replace(run, steps=run.steps.set("s", step))
        assert not copy.outputs_folder.exists()


async def test_a_copy_says_as_well_as_its_source_what_cannot_be_read(path: Path, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere" / "copy.db"
    alone.parent.mkdir()
    async with Store.open(path) as store:
        await kept(store)
        whole = await kept(store, "r2")
        shutil.rmtree(store.outputs_folder / "r1")
        with capture_logs() as logs:
            await store.back_up(alone)

    assert [(one["event"], one["without_outputs_of"]) for one in logs] == [("backup.incomplete", ("r1",))]
    async with Store.open(alone) as copy:
        assert isinstance(await copy.run("r1"), DamagedRun)
        found = await copy.run("r2")
        assert found is not None
        assert found.steps["s"].outputs == whole.steps["s"].outputs


async def test_of_a_run_that_goes_while_it_is_copied_nothing_is_in_the_copy(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy.db"
    async with Store.open(path) as store:
        await store.write(PutRun(ended(await kept(store)), ()))
        await kept(store, "r2")
        monkeypatch.setattr(outputs, "read", _gone_first(path, "r1"))
        await store.back_up(copy)

    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT id FROM runs").fetchall() == [("r2",)]
        assert copying.damage(connection) == ""


async def test_a_database_that_is_replaced_keeps_them(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    async with Store.open(path) as store:
        await store.back_up(copy)
        run = await kept(store)

    replaced = restore(copy, path, 3.0).replaced
    assert replaced is not None
    shutil.rmtree(outputs.beside(path))  # nobody knows the run any more
    restore(replaced, path, 4.0)

    async with Store.open(path) as store:
        found = await store.run("r1")
        assert found is not None
        assert found.steps["s"].outputs == run.steps["s"].outputs


async def test_what_cannot_be_written_now_is_said_and_leaves_its_room_to_others(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with Store.open(path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StoreError, match=r"cannot store the outputs: .*No space left on device"):
                await store.keep_outputs("r1", WORDS)
        left = list((store.outputs_folder / "r1").iterdir())
        await kept(store)

        assert left == []


async def test_what_can_never_be_written_is_told_apart(path: Path) -> None:
    async with Store.open(path) as store:
        store.outputs_folder.write_text("a file where a folder should be")

        with pytest.raises(FileExistsError):
            await store.keep_outputs("r1", WORDS)


async def test_what_cannot_be_read_now_is_not_damaged(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_descriptors(file: Path) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    copy = tmp_path / "copy.db"
    async with Store.open(path) as store:
        run = await kept(store)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", no_descriptors)
            for asked in (
                store.run("r1"),
                store.unfinished_runs(),
                store.back_up(copy),
                store.run_naming("x", []),
            ):
                with pytest.raises(StoreError, match=r"cannot read outputs of run r1: .*Too many open") as info:
                    await asked
                assert not isinstance(info.value, DamagedError)

        assert await store.run("r1") == run
        assert not copy.exists()


async def test_a_database_may_be_a_link(path: Path, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere" / "data.db"
    place.parent.mkdir()
    path.symlink_to(place)
    async with Store.open(path) as store:
        run = await kept(store)
        assert await store.run("r1") == run
        assert store.outputs_folder == path.parent / "outputs"


async def test_a_state_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"st\xffte")
    folder.mkdir()
    async with Store.open(folder / "fusemld.db") as store:
        run = await kept(store)
        assert await store.run("r1") == run


async def test_a_copy_for_which_there_is_no_room_says_so_and_leaves_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A double for a disk that is full when outputs are taken in: SQLite has ended the transaction then."""

    def full(connection: sqlite3.Connection, folder: Path) -> list[str]:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return take_in(connection, folder)

    take_in = outputs.take_in
    place = tmp_path / "copies"
    place.mkdir()
    async with Store.open(path) as store:
        await kept(store)
        monkeypatch.setattr(outputs, "take_in", full)
        with pytest.raises(StoreError, match=r"cannot copy the database: database or disk is full"):
            await store.back_up(place / "copy.db")

    assert list(place.iterdir()) == []


@pytest.mark.parametrize("point", ["outputs.written", "outputs.kept"])
def test_what_a_killed_daemon_left_is_written_over(tmp_path: Path, point: str) -> None:
    program = (
        "import pathlib, sys; from fusemld.store.outputs import keep\n"
        "keep(pathlib.Path(sys.argv[1]), 'r1', {'o': 'x' * 100_000})\n"
    )

    killed = subprocess.run([sys.executable, "-c", program, tmp_path], env={faults.VARIABLE: point}, check=False)
    left = [file.name == PARTIAL for file in (tmp_path / "r1").iterdir()]
    name = outputs.keep(tmp_path, "r1", {"o": "x" * 100_000})

    assert killed.returncode == -9
    assert left == [point == "outputs.written"]
    assert [file.name for file in (tmp_path / "r1").iterdir()] == [name]
    assert outputs.read(tmp_path, "r1", name) == {"o": "x" * 100_000}


async def test_a_file_that_no_run_came_to_name_goes_with_the_next_start(path: Path) -> None:
    async with Store.open(path) as store:
        going = await kept(store)
        over = ended(await kept(store, "r2"))
        await store.write(PutRun(over, ()))
        for run in ("r1", "r2"):
            await store.keep_outputs(run, {"o": "x" * 100_000})
            (store.outputs_folder / run / PARTIAL).write_text("x")

    async with Store.open(path) as store:
        assert [file.name for file in (store.outputs_folder / "r1").iterdir()] == [going.steps["s"].outputs_file]
        assert len(list((store.outputs_folder / "r2").iterdir())) == 3  # nobody writes there, nor looks
        assert [await store.run("r1"), await store.run("r2")] == [going, over]


def test_a_file_of_another_name_is_not_taken_for_it(tmp_path: Path) -> None:
    name = outputs.keep(tmp_path, "r1", {"o": "x"})
    (tmp_path / "r1" / name).rename(tmp_path / "r1" / "another")

    with pytest.raises(DamagedError, match="has been changed"):
        outputs.read(tmp_path, "r1", "another")


async def test_a_text_is_found_in_them(path: Path) -> None:
    async with Store.open(path) as store:
        await kept(store, long=LONG, place="s3://bucket/0123abcd/model")

        assert await store.run_naming("0123abcd", []) == "r1"
        assert await store.run_naming("0123abcd", ["r1"]) is None
        assert await store.run_naming("0123abce", []) is None
