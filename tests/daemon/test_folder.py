"""From scans to runs over a real catalog, registry and store, across restarts of the daemon."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import msgspec
import pytest

from fusemld.daemon.folder import STARTED_AT_ONCE
from fusemld.intake.catalog import Catalog
from fusemld.intake.snapshot import Scan
from fusemld.model.document import DocumentState, Kind, RememberedFile
from fusemld.model.extension import Selectors
from fusemld.model.run import Run
from fusemld.registry.matching import match
from fusemld.registry.registry import Registry
from fusemld.store.reads import RunQuery
from tests.daemon.running import Engine, OpenEngine, disk_is_full, never_answered
from tests.daemon.watched import folder_of, scan_of

HELLO = "name: hello\nsteps: [{name: one, image: host, command: [echo, TEXT]}]"
TRAIN = """
name: train
inputs: [{name: code, type: codeset}, {name: rounds, type: int, default: 3}]
steps:
  - name: one
    image: host
    command: [ls]
    inputs: [{name: code, codeset: {name: "{{ inputs.code }}", path: /project}}]
"""
REQUEST = "{kind: run, workflow: hello, inputs: {}}"
GIT = "{kind: codeset, project: lab, name: digits, url: 'https://git.example/digits.git'}"
ASSIGNMENT = "{kind: assignment, name: nightly, workflow: train, codesets: [lab/digits]}"
RECORD = "id: vault\nproduct: vault\nservices: [{id: main, endpoints: [{url: 'http://vault'}]}]"


class Watched:
    """A folder in the daemon, and what it is told to have seen."""

    def __init__(self, engine: Engine, catalog: Catalog) -> None:
        self.engine = engine
        self.registry = Registry()
        self.folder = folder_of(engine, catalog, self.registry)

    async def see(self, *removed: str, **files: str) -> None:
        await self.folder.on_scan(scan_of(*removed, **files))

    async def runs(self) -> list[Run]:
        """Oldest first."""
        return (await self.engine.store.runs(RunQuery()))[::-1]


Watch = Callable[[], AbstractAsyncContextManager[Watched]]


@pytest.fixture
def watch(engine: OpenEngine) -> Watch:
    @asynccontextmanager
    async def life() -> AsyncGenerator[Watched]:
        async with engine() as running:
            yield Watched(running, Catalog(await running.store.documents()))

    return life


async def test_a_dropped_workflow_runs_once_whatever_is_restarted_or_seen_again(watch: Watch) -> None:
    async with watch() as first:
        await first.see(hello=HELLO)
        await first.see(hello=HELLO + "\n# only a comment\n")
        before = await first.runs()

    async with watch() as second:
        at_once = [document.name for document in second.folder.registered(Kind.WORKFLOW).values()]
        await second.see(hello=HELLO)
        after = await second.runs()

    assert at_once == ["hello"]
    assert [run.id for run in after] == [run.id for run in before]
    assert (before[0].user, before[0].cause) == ("ann", "workflow/hello generation 1")


async def test_new_content_runs_again_with_the_new_content(watch: Watch) -> None:
    async with watch() as watched:
        await watched.see(hello=HELLO)
        watched.engine.clock.now += 1
        await watched.see(hello=HELLO.replace("TEXT", "other"))
        runs = await watched.runs()

        assert [run.cause for run in runs] == ["workflow/hello generation 1", "workflow/hello generation 2"]
        assert runs[0].workflow_digest != runs[1].workflow_digest


async def test_the_files_still_know_their_run_after_a_restart(watch: Watch) -> None:
    async with watch() as first:
        await first.see(hello=HELLO, again=REQUEST)
        runs = {run.cause.partition(" ")[0]: run.id for run in await first.runs()}

    async with watch() as second:
        rows = {row.key: row.run for row in second.folder.catalog.records}

    assert rows == runs
    assert set(runs) == {"workflow/hello", "run/again.yaml#0"}


async def test_new_content_does_not_show_the_run_of_the_old(watch: Watch) -> None:
    async with watch() as watched:
        await watched.see(train=TRAIN, digits=GIT, ask="{kind: run, workflow: train, inputs: {code: lab/digits}}")
        started = watched.folder.catalog.record("run/ask.yaml#0")
        await watched.see(ask="{kind: run, workflow: train, inputs: {code: lab/other}}")
        waiting = watched.folder.catalog.record("run/ask.yaml#0")

        assert started is not None
        assert started.run != ""
        assert waiting is not None
        assert (waiting.run, waiting.detail) == ("", "waiting for codeset lab/other")


async def test_a_request_waits_for_its_workflow_in_whichever_life_that_comes(watch: Watch) -> None:
    async with watch() as first:
        await first.see(ask=REQUEST)
        early = await first.runs()

    async with watch() as second:
        await second.see(hello=HELLO)
        causes = [run.cause for run in await second.runs()]

    assert early == []
    assert sorted(causes) == ["run/ask.yaml#0 generation 1", "workflow/hello generation 1"]


async def test_an_assignment_runs_once_for_each_commit_and_pins_it(watch: Watch) -> None:
    async with watch() as first:
        await first.see(train=TRAIN, digits=GIT, nightly=ASSIGNMENT)
        (polled,) = first.folder.catalog.polled()
        await first.folder.codeset_seen(polled, "a" * 40, "")
        await first.folder.codeset_seen(polled, "a" * 40, "")

    async with watch() as second:
        (polled,) = second.folder.catalog.polled()
        await second.folder.codeset_seen(polled, "a" * 40, "")
        second.engine.clock.now += 1
        await second.folder.codeset_seen(polled, "b" * 40, "")
        runs = await second.runs()

    assert [run.inputs["code"] for run in runs] == [f"lab/digits@{'a' * 40}", f"lab/digits@{'b' * 40}"]
    assert [run.project for run in runs] == ["lab", "lab"]


async def test_a_folder_has_no_versions_to_ask_for(watch: Watch) -> None:
    async with watch() as watched:
        folder = "{kind: codeset, project: lab, name: digits, path: /inbox/code}"
        await watched.see(train=TRAIN, digits=folder, nightly=ASSIGNMENT)
        (polled,) = watched.folder.catalog.polled()
        await watched.folder.codeset_seen(polled, "sha256:1234", "")
        (run,) = await watched.runs()

        assert run.inputs["code"] == "lab/digits"
        assert run.cause.endswith("lab/digits at sha256:1234")


async def test_records_come_into_the_registry_and_go_with_their_file(watch: Watch) -> None:
    async with watch() as watched:
        await watched.see(vault=RECORD)
        wanted = Selectors(name="v", product="vault")
        there = match(wanted, watched.registry.list(), zone="local", project="default", user="ann").chosen
        await watched.see("vault")

        assert there is not None
        assert watched.registry.list() == ()


async def test_who_needs_records_waits_until_all_known_ones_were_read_again(watch: Watch) -> None:
    notes: list[str] = []
    async with watch() as first:
        await first.see(vault=RECORD, other=RECORD.replace("vault", "other"))
        with anyio.fail_after(1):
            await first.folder.extensions_read(notes.append)

    async with watch() as second, anyio.create_task_group() as tasks:
        done = anyio.Event()

        async def wait() -> None:
            await second.folder.extensions_read(notes.append)
            done.set()

        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await second.see(other=RECORD.replace("vault", "other"))
        await anyio.wait_all_tasks_blocked()
        was_done = done.is_set()
        await second.folder.on_scan(Scan(available=False))
        await anyio.wait_all_tasks_blocked()
        await second.see(vault=RECORD)
        with anyio.fail_after(1):
            await done.wait()

    assert not was_done
    assert notes == [
        "waiting for the record of extension other, vault",
        "waiting for the record of extension vault",
        "waiting for the record of extension vault: the watched folder cannot be seen",
    ]


async def test_a_record_that_went_while_the_daemon_was_down_is_not_waited_for(watch: Watch) -> None:
    async with watch() as first:
        await first.see(vault=RECORD)

    async with watch() as second:
        await second.see("vault")
        with anyio.fail_after(1):
            await second.folder.extensions_read(lambda _: None)


async def test_a_bad_document_stops_neither_its_neighbours_nor_the_loop(watch: Watch) -> None:
    async with watch() as watched:
        await watched.see(bad="name: bad\nsteps: [{nam: x}]", hello=HELLO)
        causes = [run.cause for run in await watched.runs()]
        row = watched.folder.catalog.record("file/bad.yaml")

        assert causes == ["workflow/hello generation 1"]
        assert row is not None
        assert row.problems


async def test_a_run_that_cannot_be_created_stops_no_other(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    async with watch() as watched:
        real = watched.engine.plans.add

        def refuse(digest: str, canonical: str) -> object:
            if '"bad"' in canonical:
                raise RuntimeError("a bug")
            return real(digest, canonical)

        monkeypatch.setattr(watched.engine.plans, "add", refuse)
        await watched.see(bad=HELLO.replace("hello", "bad"), hello=HELLO)
        causes = [run.cause for run in await watched.runs()]

        assert causes == ["workflow/hello generation 1"]


async def test_a_document_whose_row_cannot_be_read_starts_nothing_and_its_row_stays(
    watch: Watch, engine: OpenEngine, tmp_path: Path
) -> None:
    async with watch() as first:
        await first.see(hello=HELLO)
    with sqlite3.connect(tmp_path / "fusemld.db") as connection:
        connection.execute("UPDATE documents SET data = '{'")
    connection.close()

    async with engine() as running:
        watched = Watched(running, Catalog(unreadable={"workflow/hello": "cannot read it"}))
        await watched.see(hello=HELLO)
        await watched.see(hello=HELLO.replace("TEXT", "else"), other=HELLO.replace("hello", "other"))
        await watched.see("hello")
        await watched.folder.forget_removed((), dry_run=False)
        causes = [run.cause for run in await watched.runs()]
    with sqlite3.connect(tmp_path / "fusemld.db") as connection:
        rows = dict(connection.execute("SELECT key, data FROM documents"))
    connection.close()

    assert causes == ["workflow/hello generation 1", "workflow/other generation 1"]
    assert rows["workflow/hello"] == "{"


async def test_an_extension_whose_row_cannot_be_read_is_waited_for_until_the_folder_was_seen(
    engine: OpenEngine,
) -> None:
    async with engine() as running:
        watched = Watched(running, Catalog(unreadable={"extension/vault": "cannot read it"}))
        notes: list[str] = []

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watched.folder.extensions_read, notes.append)
            await anyio.lowlevel.checkpoint()
            await watched.folder.on_scan(Scan(available=False))
            await anyio.lowlevel.checkpoint()
            await watched.see(hello=HELLO)

    assert notes == [
        "waiting for the record of extension vault",
        "waiting for the record of extension vault: the watched folder cannot be seen",
    ]


async def test_it_can_be_seen_that_what_was_seen_cannot_be_stored(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watch() as watched, anyio.create_task_group() as tasks:
        before = watched.folder.progress.doing
        with monkeypatch.context() as patch:
            patch.setattr(watched.engine.store, "write", never_answered)
            tasks.start_soon(partial(watched.see, hello=HELLO))
            await anyio.wait_all_tasks_blocked()
            meanwhile = watched.folder.progress.doing
            tasks.cancel_scope.cancel()

    assert (before, meanwhile) == ("", "storing what was seen in the watched folder")
    assert watched.folder.progress.doing == ""


async def test_a_database_that_is_said_to_be_out_of_reach_is_no_work_that_does_not_end(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watch() as watched, anyio.create_task_group() as tasks:
        monkeypatch.setattr(watched.engine.store, "write", disk_is_full)
        tasks.start_soon(partial(watched.see, hello=HELLO))
        while not watched.folder.trouble:
            await anyio.lowlevel.checkpoint()
        progress = watched.folder.progress.doing, watched.folder.progress.due_at
        tasks.cancel_scope.cancel()

    assert progress == ("", math.inf)


async def test_the_requests_of_a_file_do_not_wait_for_one_commit_each(watch: Watch) -> None:
    many = STARTED_AT_ONCE
    async with watch() as watched:
        await watched.see(hello=HELLO)
        before = watched.engine.store.commits
        await watched.see(many="\n---\n".join([REQUEST] * many))
        commits = watched.engine.store.commits - before
        causes = sorted(run.cause for run in await watched.runs())

    asked = [f"run/many.yaml#{number} generation 1" for number in range(many)]
    assert causes == sorted([*asked, "workflow/hello generation 1"])
    assert commits < many / 5, "what was seen, the runs, and what their steps have done meanwhile"


BAD_REQUEST = REQUEST.replace("hello", "bad")


@pytest.mark.parametrize(
    "after",
    [
        f"{REQUEST}\n---\n{BAD_REQUEST}\n---\n{REQUEST}",
        f"# a comment\n{REQUEST}\n---\n{BAD_REQUEST}\n---\n{REQUEST}",
        f"{REQUEST}\n---\n{REQUEST}\n---\n{BAD_REQUEST}\n---\n{REQUEST}",
    ],
)
async def test_a_request_whose_run_could_not_be_created_is_started_by_the_next_daemon(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    """Also where the other requests of its file have had theirs, and where the file was changed meanwhile."""
    before = f"{REQUEST}\n---\n{BAD_REQUEST}\n---\n{REQUEST}"
    workflows = {"hello": HELLO, "bad": HELLO.replace("hello", "bad")}

    async def see(watched: Watched, text: str) -> None:
        size = len(text)
        taken = RememberedFile(path="both.yaml", inode=1, size_bytes=size, mtime_ns=1, ctime_ns=1, mark=text)
        await watched.folder.on_scan(msgspec.structs.replace(scan_of(both=text), taken=(taken,)))

    async with watch() as first:
        await first.see(**workflows)
        real = first.engine.plans.add

        def refuse(digest: str, canonical: str) -> object:
            if '"bad"' in canonical:
                raise RuntimeError("a bug")
            return real(digest, canonical)

        monkeypatch.setattr(first.engine.plans, "add", refuse)
        await see(first, before)
        if after != before:
            await see(first, after)
        at_first = sorted(run.workflow for run in await first.runs() if run.cause.startswith("run/"))
        known = [file.path for file in await first.engine.store.remembered_files()]
        (waiting,) = [row for row in await first.engine.store.documents() if row.state is DocumentState.WAITING]

    async with watch() as second:
        await second.see(**workflows, both=after)
        asked = sorted(run.workflow for run in await second.runs() if run.cause.startswith("run/"))

    assert waiting.detail == "its run cannot be created: a bug; the next daemon tries again"
    assert known == [], "what is remembered is not read again"
    assert at_first == ["hello"] * (after.count(REQUEST))
    assert asked == ["bad", *at_first]
