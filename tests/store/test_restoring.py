"""Copies of the database: taken while it is written to, and put back without anything running twice."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import sys
from contextlib import closing
from pathlib import Path

import anyio
import immutables
import pytest
from msgspec.structs import replace

from fusemld.model import faults
from fusemld.model.document import HELD, DocumentRecord, DocumentState, Kind, RememberedFile
from fusemld.model.errors import FusemldError, InvalidInputError, NotFoundError, StartError
from fusemld.model.run import Attempt, Ending, Outcome, Run, RunState, StepRun, StepState
from fusemld.model.service import ServiceRecord
from fusemld.store import copying
from fusemld.store.changes import PutDocument, PutFile, PutRun, PutService
from fusemld.store.restoring import RESERVED, restore
from fusemld.store.schema import MIGRATIONS
from fusemld.store.sqlite import Store

NOW = 2_000_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "fusemld.db"


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    return tmp_path / "backup.db"


def run_of(*steps: StepRun, id: str = "r1", **fields: object) -> Run:  # noqa: A002
    made = Run(
        id=id,
        workflow="w",
        workflow_digest="d",
        created_at=1.0,
        steps=immutables.Map({step.name: step for step in steps}),
    )
    return replace(made, **fields)


def attempt(number: int, ending: Ending | None = None) -> Attempt:
    outcome = None if ending is None else Outcome(ending=ending)
    ended_at = None if ending is None else 2.0
    return Attempt(number=number, reason="first", launched_at=1.0, ended_at=ended_at, outcome=outcome)


async def saved(path: Path, backup: Path, *changes: PutRun | PutDocument | PutService | PutFile) -> None:
    """A database with that content, and a copy of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    async with Store.open(path) as store:
        await store.write(*changes)
        await store.back_up(backup)


async def test_a_copy_that_is_made_under_load_holds_whole_transactions(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    async with Store.open(path) as store:
        stopped = asyncio.Event()

        async def write() -> None:
            number = 0
            while not stopped.is_set():
                steps = [StepRun(name=name) for name in "abc"]
                await store.write(*(PutRun(run_of(*steps, id=f"{number}-{half}")) for half in "xy"))
                number += 1

        writing = asyncio.create_task(write(), name="load")
        copies = [tmp_path / f"{number}.db" for number in range(5)]
        for copy in copies:
            await store.back_up(copy)
        stopped.set()
        await writing

    counts = []
    for copy in copies:
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        with closing(sqlite3.connect(copy)) as connection:
            assert copying.damage(connection) == ""
            runs = [row[0] for row in connection.execute("SELECT id FROM runs")]
            assert connection.execute("SELECT count(*) FROM steps").fetchone()[0] == 3 * len(runs)
        assert sorted(run[:-1] for run in runs if run.endswith("x")) == sorted(
            r[:-1] for r in runs if r.endswith("y")
        )
        counts.append(len(runs))
    assert counts == sorted(counts)
    assert {file.name for file in tmp_path.iterdir()} == {"state", *(copy.name for copy in copies)}


async def test_an_unfinished_run_ends_and_no_number_of_an_attempt_comes_again(path: Path, backup: Path) -> None:
    steps = (
        StepRun(
            name="done", state=StepState.SUCCEEDED, attempts=(attempt(1, Ending.SUCCEEDED),), outputs={"o": "1"}
        ),
        StepRun(
            name="active", state=StepState.RUNNING, deadline=9.0, attempts=(attempt(1, Ending.LOST), attempt(2))
        ),
        StepRun(
            name="again", state=StepState.BACKOFF, deadline=9.0, attempts=(attempt(1, Ending.PROGRAM_FAILED),)
        ),
        StepRun(name="later", state=StepState.WAITING),
    )
    await saved(path, backup, PutRun(run_of(*steps)))

    done = restore(backup, path, NOW)
    async with Store.open(path) as store:
        unfinished = await store.unfinished_runs()
        run = await store.run("r1")

    assert (done.runs, done.ended, unfinished) == (1, ("r1",), [])
    assert run is not None
    assert (run.state, run.finished_at) == (RunState.FAILED, NOW)
    assert "`fuseml retry` goes on with it" in run.message
    after = {name: step.state for name, step in run.steps.items()}
    assert after == {
        "done": StepState.SUCCEEDED,
        "active": StepState.FAILED,
        "again": StepState.FAILED,
        "later": StepState.SKIPPED,
    }
    lost = run.steps["active"].attempts[-1]
    assert lost.outcome is not None
    assert (lost.outcome.ending, lost.ended_at) == (Ending.LOST, NOW)
    assert "made while it ran" in lost.outcome.message
    assert {name: step.next_attempt for name, step in run.steps.items()} == {
        "done": 2,
        "active": 3 + RESERVED,
        "again": 2 + RESERVED,
        "later": 1 + RESERVED,
    }
    assert all(step.deadline is None for step in run.steps.values())


async def test_a_failed_run_may_have_been_retried_since_and_a_cancelled_one_ends_so(
    path: Path, backup: Path
) -> None:
    failed = StepRun(name="a", state=StepState.FAILED, attempts=(attempt(3, Ending.PROGRAM_FAILED),))
    running = StepRun(name="a", state=StepState.RUNNING, attempts=(attempt(1),))
    await saved(
        path,
        backup,
        PutRun(run_of(failed, id="failed", state=RunState.FAILED, finished_at=5.0, message="it failed")),
        PutRun(run_of(running, id="cancelled", cancel_requested=True)),
    )

    restore(backup, path, NOW)
    restore(backup, path, NOW + 1)
    async with Store.open(path) as store:
        runs = {run.id: run for run in await store.runs()}

    assert (runs["failed"].finished_at, runs["failed"].message) == (5.0, "it failed")
    assert runs["failed"].steps["a"].next_attempt == 4 + RESERVED
    assert runs["cancelled"].state is RunState.CANCELLED


async def test_what_a_document_asked_for_is_not_run(path: Path, backup: Path) -> None:
    assignment = '{"name":"n","workflow":"w","codesets":[{"project":"lab","name":"digits"}]}'
    rows = (
        DocumentRecord(key="run/a.yaml#0", file="a.yaml", kind=Kind.RUN, generation=1, canonical="{}"),
        DocumentRecord(
            key="run/b.yaml#0", file="b.yaml", kind=Kind.RUN, generation=1, started_generation=1, canonical="{}"
        ),
        DocumentRecord(
            key="assignment/n",
            file="n.yaml",
            kind=Kind.ASSIGNMENT,
            generation=1,
            canonical=assignment,
            started_versions={"lab/digits": "x@1"},
        ),
    )
    remembered = RememberedFile(path="b.yaml", inode=1, size_bytes=1, mtime_ns=1, ctime_ns=1, mark="0:1")
    await saved(path, backup, *(PutDocument(row) for row in rows), PutFile(remembered))

    restore(backup, path, NOW)
    async with Store.open(path) as store:
        after = {row.key: row for row in await store.documents()}
        restoration, files = await store.restoration(), await store.remembered_files()

    assert restoration is not None
    assert restoration.at == NOW
    assert files == []
    assert (after["run/a.yaml#0"].started_generation, after["run/a.yaml#0"].state) == (1, DocumentState.WAITING)
    assert after["run/a.yaml#0"].detail == restoration.detail
    assert after["run/b.yaml#0"] == rows[1]
    assert after["assignment/n"].started_versions == {"lab/digits": HELD}


async def test_numbers_of_processes_of_services_do_not_come_again(path: Path, backup: Path) -> None:
    record = ServiceRecord(name="s3", kind="s3", host="127.0.0.1", port=1, start=7, counter=7, wanted=True)
    await saved(path, backup, PutService(record))

    restore(backup, path, NOW)
    async with Store.open(path) as store:
        (after,) = await store.services()

    assert after == replace(record, counter=int(NOW))


async def test_the_database_of_before_stays_beside_it_and_only_the_latest_do(path: Path, backup: Path) -> None:
    await saved(path, backup, PutRun(run_of(id="old")))
    async with Store.open(path) as store:
        await store.write(PutRun(run_of(id="new")))

    done = [restore(backup, path, NOW + number) for number in range(5)]

    assert done[0].replaced is not None
    kept = sorted(file.name for file in path.parent.iterdir())
    assert len(kept) == 4
    assert all(file.name in kept for file in (path, *(one.replaced for one in done[2:] if one.replaced)))
    with closing(sqlite3.connect(done[-1].replaced or "")) as connection:
        assert connection.execute("SELECT id FROM runs").fetchall() == [("old",)]


async def test_what_was_committed_last_is_in_the_replaced_one_too(path: Path, backup: Path) -> None:
    await saved(path, backup)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("INSERT INTO meta VALUES ('late', 'x')")
    log = path.with_name("fusemld.db-wal").read_bytes()
    whole = path.read_bytes()
    writer.close()
    path.write_bytes(whole)  # as kill -9 leaves it
    path.with_name("fusemld.db-wal").write_bytes(log)

    done = restore(backup, path, NOW)

    with closing(sqlite3.connect(done.replaced or "")) as connection:
        assert connection.execute("SELECT value FROM meta WHERE key = 'late'").fetchall() == [("x",)]
    async with Store.open(path) as store:
        assert await store.meta("late") is None


async def test_a_destroyed_database_is_replaced_with_its_journal_out_of_the_way(path: Path, backup: Path) -> None:
    await saved(path, backup, PutRun(run_of(id="old")))
    path.write_bytes(b"not a database" * 1000)
    path.with_name("fusemld.db-wal").write_bytes(b"garbage" * 1000)

    restore(backup, path, NOW)

    async with Store.open(path) as store:
        assert [run.id for run in await store.runs()] == ["old"]


async def test_a_copy_comes_to_a_host_that_has_no_database(path: Path, backup: Path, tmp_path: Path) -> None:
    await saved(path, backup, PutRun(run_of(id="old")))
    other = tmp_path / "other.db"

    done = restore(backup, other, NOW)

    assert done.replaced is None
    assert stat.S_IMODE(other.stat().st_mode) == 0o600
    async with Store.open(other) as store:
        assert [run.id for run in await store.runs()] == ["old"]


async def test_a_copy_of_an_older_fusemld_is_brought_up_to_date(path: Path, backup: Path) -> None:
    with closing(sqlite3.connect(backup, isolation_level=None)) as connection:
        for statement in MIGRATIONS[0]:
            connection.execute(statement)
        connection.execute("INSERT INTO meta VALUES ('instance', 'abc')")
        connection.execute("PRAGMA user_version = 1")
    path.parent.mkdir()

    restore(backup, path, NOW)

    async with Store.open(path) as store:
        assert await store.meta("instance") == "abc"
    assert [file.name for file in path.parent.iterdir()] == ["fusemld.db"]


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        ("absent", NotFoundError, "there is no such file"),
        ("text", InvalidInputError, "it is not a database"),
        ("empty", InvalidInputError, "it is not a database of fusemld"),
        ("other", InvalidInputError, "it is not a database of fusemld"),
        ("newer", StartError, r"cannot restore .*: a newer fusemld wrote it \(schema 1000"),
        ("cut", InvalidInputError, "it is damaged"),
    ],
)
async def test_what_is_no_whole_database_is_refused_and_changes_nothing(
    path: Path, backup: Path, spoil: str, error: type[FusemldError], words: str
) -> None:
    await saved(path, backup, *(PutRun(run_of(id=f"r{number}", message="x" * 5000)) for number in range(50)))
    before = path.read_bytes()
    match spoil:
        case "absent":
            backup.unlink()
        case "text":
            backup.write_text("hello " * 1000)
        case "empty":
            backup.write_bytes(b"")
        case "other":
            backup.unlink()
            with closing(sqlite3.connect(backup)) as connection:
                connection.execute("CREATE TABLE songs (name TEXT)")
                connection.commit()
        case "newer":
            with closing(sqlite3.connect(backup)) as connection:
                connection.execute("PRAGMA user_version = 1000")
        case _:
            os.truncate(backup, backup.stat().st_size // 2 // 4096 * 4096)

    with pytest.raises(error, match=words):
        restore(backup, path, NOW)

    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["fusemld.db"]


@pytest.mark.parametrize("point", [name for name in faults.UPKEEP_POINTS if name.startswith("restore.")])
async def test_killed_at_any_moment_a_restoration_has_happened_or_not(
    path: Path, backup: Path, point: str
) -> None:
    await saved(path, backup, PutRun(run_of(id="old")))
    async with Store.open(path) as store:
        await store.write(PutRun(run_of(id="new")))
    program = (
        "import pathlib, sys; from fusemld.store.restoring import restore\n"
        f"restore(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), {NOW})"
    )

    killed = await anyio.run_process(
        [sys.executable, "-c", program, str(backup), str(path)], env={faults.VARIABLE: point}, check=False
    )
    async with Store.open(path) as store:
        runs = sorted(run.id for run in await store.runs())
    restore(backup, path, NOW)
    async with Store.open(path) as store:
        again = [run.id for run in await store.runs()]

    assert killed.returncode == -signal.SIGKILL
    assert runs == (["old"] if point == "restore.replaced" else ["new", "old"])
    assert again == ["old"]
    assert not list(path.parent.glob(".*"))
