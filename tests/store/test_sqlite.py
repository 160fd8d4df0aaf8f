from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import stat
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import immutables
import pytest
from msgspec.structs import replace

from fusemld.model.application import Application
from fusemld.model.codeset import PinnedCodeset
from fusemld.model.document import DocumentRecord
from fusemld.model.errors import InvalidInputError, NotFoundError, StartError, UnavailableError
from fusemld.model.extension import ResolvedService
from fusemld.model.run import Attempt, Ending, Outcome, Run, RunState, StepRun, StepState
from fusemld.model.service import ServiceRecord
from fusemld.store.changes import (
    DeleteApplication,
    DeleteDocument,
    DeleteService,
    PutApplication,
    PutDocument,
    PutMeta,
    PutRun,
    PutService,
    PutWorkflow,
)
from fusemld.store.errors import StoreConflictError, StoreError
from fusemld.store.reads import RunQuery
from fusemld.store.sqlite import Store

ANY_BYTES = bytes(range(256)).decode("utf-8", "surrogateescape")


def make_run(id: str = "r1", created_at: float = 1.0, steps: Sequence[str] = ("a", "b"), **fields: object) -> Run:  # noqa: A002
    made = Run(
        id=id,
        workflow="w",
        workflow_digest="d",
        created_at=created_at,
        inputs={"x": "1"},
        steps=immutables.Map({name: StepRun(name=name, reason="waiting", since=1.0) for name in steps}),
    )
    return replace(made, **fields)


def with_step(run: Run, step: StepRun) -> Run:
    return replace(run, steps=run.steps.set(step.name, step))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fusemld.db"


def full_run() -> Run:
    service = ResolvedService(requirement="s3", extension_id="e", service_id="s", url="http://x")
    attempts = (
        Attempt(
            number=1,
            reason="first",
            launched_at=1.0,
            started_at=1.5,
            ended_at=2.0,
            outcome=Outcome(ending=Ending.SIGNALLED, message="SIGKILL", tail=f"tail {ANY_BYTES}"),
        ),
        Attempt(number=2, reason="retry 1 of 2", launched_at=3.0),
    )
    done = StepRun(name="a", state=StepState.SUCCEEDED, since=4.0, attempts=attempts, outputs={"o": ANY_BYTES})
    active = StepRun(
        name="b",
        state=StepState.RUNNING,
        reason="running",
        since=5.0,
        deadline=99.5,
        attempts=attempts,
        retries_used=1,
        losses=2,
        kill_requested=Ending.TIMED_OUT,
        services=(service,),
        warnings=("two requirements set K",),
    )
    pin = PinnedCodeset(project="team", name="code", version="abc", url="u", digest="d", size_bytes=3)
    steps = immutables.Map({"a": done, "b": active})
    return replace(
        make_run(),
        project="team",
        user="ann",
        cause="file w.yaml",
        executor="kubernetes",
        message="going on",
        cancel_requested=True,
        codesets={"team/code": pin},
        steps=steps,
    )


async def test_a_run_comes_back_as_it_was_with_any_bytes_in_its_outputs(path: Path) -> None:
    run = full_run()
    async with Store.open(path) as store:
        await store.write(PutRun(run))

    async with Store.open(path) as store:
        assert await store.run("r1") == run
        assert await store.unfinished_runs() == [run]
        assert await store.run("r2") is None


async def test_only_the_changed_steps_are_written(path: Path) -> None:
    run = make_run()
    ended = with_step(run, replace(run.steps["a"], state=StepState.SUCCEEDED, outputs={"o": "1"}))
    other = with_step(ended, replace(run.steps["b"], state=StepState.RUNNING))
    async with Store.open(path) as store:
        await store.write(PutRun(run))

        await store.write(PutRun(other, ("a",)))

        assert await store.run("r1") == ended


async def test_what_is_stored_already_is_not_written_again(path: Path) -> None:
    run = make_run()
    other = replace(run, message="not this", inputs={"n": "2"})
    async with Store.open(path) as store:
        await store.write(PutRun(run))

        await store.write(PutRun(other, (), before=other))
        assert await store.run("r1") == run
        await store.write(PutRun(other, (), before=run))
        assert await store.run("r1") == other


async def test_a_finished_run_has_its_outputs_and_is_not_loaded_at_the_start(path: Path) -> None:
    run = make_run()
    done = replace(run, state=RunState.SUCCEEDED, finished_at=9.0, outputs={"url": ANY_BYTES}, message="\udcff")
    async with Store.open(path) as store:
        await store.write(PutRun(run))
        await store.write(PutRun(done, ()))

        assert await store.run("r1") == replace(done, message="\\udcff")
        assert await store.unfinished_runs() == []


async def test_all_changes_of_a_write_are_there_or_none(path: Path) -> None:
    async with Store.open(path) as store:
        await store.write(PutRun(make_run()))

        with pytest.raises(StoreConflictError, match="cannot write PutRun"):
            await store.write(PutMeta("k", "v"), PutRun(make_run()), PutMeta("l", "v"))

        assert (await store.meta("k"), await store.meta("l")) == (None, None)


async def test_a_refused_change_fails_its_caller_only(path: Path) -> None:
    async with Store.open(path) as store:
        await store.write(PutRun(make_run("taken")))
        before = store.commits

        results = await asyncio.gather(
            *(store.write(PutMeta(f"k{n}", "v")) for n in range(5)),
            store.write(PutRun(make_run("taken"))),
            store.write(PutRun(make_run("unknown"), ("a",))),
            store.write(PutRun(make_run("taken"), ("no such step",))),
            *(store.write(PutMeta(f"l{n}", "v")) for n in range(5)),
            return_exceptions=True,
        )

        assert store.commits - before <= 2, "they were in one transaction"
        assert [type(result) for result in results if result] == [StoreConflictError, StoreConflictError, KeyError]
        assert [await store.meta(key) for key in ("k0", "k4", "l0", "l4")] == ["v"] * 4


async def test_what_gathers_during_a_commit_is_committed_together(path: Path) -> None:
    async with Store.open(path) as store:
        before = store.commits

        await asyncio.gather(*(store.write(PutMeta(f"k{n}", "v")) for n in range(500)))

        assert store.commits - before <= 5


async def test_a_cancelled_caller_does_not_disturb_the_others(path: Path) -> None:
    async with Store.open(path) as store:
        writes = [asyncio.create_task(store.write(PutMeta(f"k{n}", "v"))) for n in range(3)]
        await asyncio.sleep(0)
        writes[1].cancel()

        await asyncio.gather(writes[0], writes[2])

        assert (await store.meta("k0"), await store.meta("k2")) == ("v", "v")


async def test_reads_go_on_beside_writes_and_see_whole_transactions(path: Path) -> None:
    async with Store.open(path) as store:
        await store.write(PutMeta("a", "0"), PutRun(make_run()))
        seen = []

        async def write() -> None:
            for n in range(1, 30):
                run = make_run(message=f"{n}")
                step = replace(run.steps["a"], reason=f"{n}")
                await store.write(PutRun(with_step(run, step), ("a",)))

        async def read(writing: asyncio.Task[None]) -> None:
            while not writing.done():
                run = await store.run("r1")
                assert run is not None
                seen.append((run.message, run.steps["a"].reason))

        writing = asyncio.create_task(write())
        await read(writing)
        await writing

    assert all(message == reason for message, reason in seen if message)


async def test_a_closed_store_takes_nothing_and_has_written_what_it_took(path: Path) -> None:
    async with Store.open(path) as store:
        last = asyncio.create_task(store.write(PutMeta("k", "last")))
        await asyncio.sleep(0)
    await last

    with pytest.raises(StoreError, match="it is closed"):
        await store.write(PutMeta("k", "later"))

    async with Store.open(path) as store:
        assert await store.meta("k") == "last"


async def test_a_full_disk_is_an_error_that_may_pass_and_leaves_nothing_half_written(path: Path) -> None:
    async with Store.open(path) as store:
        await store.write(PutRun(make_run()))
        with closing(sqlite3.connect(path)) as other:
            pages = other.execute("PRAGMA page_count").fetchone()[0]
        await store._writer.call(lambda c: c.execute(f"PRAGMA max_page_count = {pages}"))
        huge = replace(make_run("r2"), inputs={"x": "y" * 1_000_000})

        with pytest.raises(StoreError, match=r"cannot write to the database: .*full") as raised:
            await store.write(PutMeta("k", "v"), PutRun(huge))

        assert isinstance(raised.value, UnavailableError)
        assert (await store.meta("k"), await store.run("r2")) == (None, None)

        await store._writer.call(lambda c: c.execute("PRAGMA max_page_count = 1000000"))
        await store.write(PutMeta("k", "v"), PutRun(huge))
        assert await store.run("r2") == huge


async def test_the_log_of_changes_does_not_grow_and_what_is_in_it_is_found_after_a_kill(path: Path) -> None:
    wal, copy = Path(f"{path}-wal"), path.with_name("copy.db")

    async with Store.open(path) as store:
        size = wal.stat().st_size
        for number in range(20):
            await store.write(PutRun(make_run(f"r{number}", created_at=number)))
        # What a killed daemon leaves is the files as they are.
        shutil.copy(path, copy)
        shutil.copy(wal, f"{copy}-wal")
        assert wal.stat().st_size == size
    async with Store.open(copy) as found:
        runs = await found.runs()

    assert [run.id for run in runs] == [f"r{number}" for number in reversed(range(20))]


async def test_runs_are_listed_newest_first_and_filtered(path: Path) -> None:
    pin = PinnedCodeset(project="team", name="code", version="abc", url="u", digest="d")
    old = make_run("old", 1.0, project="team", codesets={"team/code@main": pin})
    failed = make_run("failed", 2.0, state=RunState.FAILED, finished_at=3.0)
    new = make_run("new", 3.0, workflow="other")
    async with Store.open(path) as store:
        await store.write(PutRun(failed), PutRun(new), PutRun(old))

        async def ids(query: RunQuery | None = None) -> list[str]:
            return [run.id for run in await store.runs(query)]

        assert await ids() == ["new", "failed", "old"]
        assert await ids(RunQuery(limit=1, offset=1)) == ["failed"]
        assert await ids(RunQuery(workflow="w", state=RunState.RUNNING)) == ["old"]
        assert await ids(RunQuery(project="team")) == ["old"]
        assert await ids(RunQuery(codeset="team/code")) == ["old"]
        assert await ids(RunQuery(codeset="team/other")) == []
        assert (await store.run_count(), await store.run_count(RunQuery(workflow="w", limit=1))) == (3, 2)
        assert [run.id for run in await store.unfinished_runs()] == ["old", "new"]


async def test_steps_are_not_read_of_runs_that_are_wanted_without(path: Path) -> None:
    async with Store.open(path) as store:
        await store.write(PutRun(make_run("one", 1.0)), PutRun(make_run("two", 2.0)))

        two, one = await store.runs(RunQuery(without_steps=frozenset({"two"})))

    assert (one.id, set(one.steps)) == ("one", {"a", "b"})
    assert (two.id, set(two.steps)) == ("two", set())


async def test_a_run_is_found_by_the_beginning_or_the_end_of_its_id(path: Path) -> None:
    async with Store.open(path) as store:
        with pytest.raises(NotFoundError, match="there are no runs"):
            await store.find_run("latest")
        await store.write(PutRun(make_run("train-1-abc", 1.0)), PutRun(make_run("train-1-abd", 2.0)))

        assert await store.find_run("latest") == "train-1-abd"
        assert await store.find_run("train-1-abc") == "train-1-abc"
        assert await store.find_run("abc") == "train-1-abc"
        with pytest.raises(InvalidInputError, match="'train' means: train-1-abd, train-1-abc"):
            await store.find_run("train")
        for unknown in ("serve", "", "%"):
            with pytest.raises(NotFoundError):
                await store.find_run(unknown)


async def test_documents_applications_services_and_workflows_are_kept(path: Path) -> None:
    record = DocumentRecord(key="workflow/w", file="w.yaml", owner="ann", canonical="{}", generation=3)
    application = Application(name="app", type="predictor", url="http://x", services=("s",))
    service = ServiceRecord(name="mlflow", kind="mlflow", host="127.0.0.1", port=5000)
    async with Store.open(path) as store:
        await store.write(
            PutDocument(record),
            PutDocument(replace(record, generation=4)),
            PutApplication(application),
            PutService(service),
            PutWorkflow("d", "w", "{}"),
            PutWorkflow("d", "w", "{}"),
        )

    async with Store.open(path) as store:
        assert await store.documents() == [replace(record, generation=4)]
        assert await store.applications() == [application]
        assert await store.services() == [service]
        assert (await store.workflow("d"), await store.workflow("e")) == ("{}", None)

        await store.write(
            DeleteDocument(record.key),
            DeleteApplication("app"),
            DeleteApplication("unknown"),
            DeleteService("mlflow"),
        )
        assert [await store.documents(), await store.applications(), await store.services()] == [[], [], []]


async def test_the_database_is_private_and_keeps_its_identity(path: Path) -> None:
    async with Store.open(path) as store:
        identity = await store.meta("instance")
    async with Store.open(path) as store:
        assert await store.meta("instance") == identity

        modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {0o600}
    assert identity


async def test_a_file_that_is_no_database_is_refused_with_its_reason(path: Path) -> None:
    path.write_bytes(b"not a database" * 1_000)

    with pytest.raises(StoreError, match="cannot open the database: file is not a database"):
        async with Store.open(path):
            pass


def test_a_refused_file_leaves_no_thread_that_answers_into_a_closed_loop(path: Path) -> None:
    """The runner makes an error of the exception that such a thread dies of."""
    path.write_bytes(b"not a database" * 1_000)

    async def open_and_close() -> None:
        with pytest.raises(StoreError):
            async with Store.open(path):
                pass

    for _ in range(100):
        asyncio.run(open_and_close())


async def test_a_database_that_cannot_be_opened_is_an_error_of_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"cannot open the database: .*No such file or directory"):
        async with Store.open(tmp_path / "missing" / "fusemld.db"):
            pass


async def test_ten_thousand_unfinished_runs_are_loaded_at_once(path: Path) -> None:
    runs = [make_run(f"r{n:05}", float(n), steps=[f"s{step}" for step in range(5)]) for n in range(10_000)]
    async with Store.open(path) as store:
        await store.write(*(PutRun(run) for run in runs))

        assert await store.unfinished_runs() == runs


WRITER = """
import asyncio, sys
from pathlib import Path
from fusemld.store.changes import PutMeta
from fusemld.store.sqlite import Store

async def main(path):
    async with Store.open(path) as store:
        async def write(caller):
            for n in range(1_000_000):
                await store.write(PutMeta(f"a{caller}", str(n)), PutMeta(f"b{caller}", str(n)))
                sys.stdout.write(f"{caller} {n}\\n")
                sys.stdout.flush()
        await asyncio.gather(*(write(caller) for caller in range(4)))

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("lines", [1, 40, 333])
async def test_what_was_acknowledged_survives_kill_9(path: Path, lines: int) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(path), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    acknowledged = [await child.stdout.readline() for _ in range(lines)]
    os.kill(child.pid, signal.SIGKILL)
    acknowledged += (await child.stdout.read()).splitlines(keepends=True)
    await child.wait()

    async with Store.open(path) as store:
        for line in acknowledged:
            if line.endswith(b"\n"):
                caller, number = line.decode().split()
                stored = await store.meta(f"a{caller}")
                assert stored is not None
                assert int(stored) >= int(number)
        for caller in "0123":
            assert await store.meta(f"a{caller}") == await store.meta(f"b{caller}"), "never half a write"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
