"""What the API is told, over a real catalog, registry, store and performer."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from pathlib import Path, PurePath

import anyio
import pytest
from msgspec.structs import replace

from fusemld.api.views import HealthState, RunFilter
from fusemld.codesets.codesets import Codesets
from fusemld.daemon import patience, run_operations
from fusemld.daemon.applications import ApplicationBook
from fusemld.daemon.backups import Backups
from fusemld.daemon.ends import Ends
from fusemld.daemon.operations import DaemonOperations
from fusemld.daemon.removal import Removal
from fusemld.daemon.retention import Retention
from fusemld.daemon.settings import Settings
from fusemld.daemon.stored_services import StoredServices
from fusemld.daemon.watchdog import Watchdog
from fusemld.engine.events import StepFinished
from fusemld.executors.process.client import Keeper
from fusemld.hooks.steps import RuntimeFolders
from fusemld.intake.catalog import Catalog
from fusemld.intake.snapshot import FileReport, Scan
from fusemld.kube.clusters import KubeClusters
from fusemld.model.application import Application
from fusemld.model.errors import ConflictError, FusemldError, InvalidInputError, NotFoundError, UnavailableError
from fusemld.model.run import AttemptKey, Ending, Outcome, RunState, StepState
from fusemld.services.supervisor import ServiceSupervisor
from fusemld.spec.documents import read
from tests.daemon.room import RECORD, SECRET, NoEnvironments, NoServices, OpenRoom, Room
from tests.daemon.watched import NO_PLUGINS, folder_of

FILES = {
    "train": """
name: train
inputs: [{name: rounds, type: int}]
steps:
  - name: one
    image: host
    command: [ls]
    outputs: [{name: number}]
    extensions: [{name: v, product: vault}]
  - {name: two, image: host, command: [ls]}
""",
    "vault": RECORD,
    "code": "{kind: codeset, project: lab, name: digits, url: 'https://git.example/digits.git'}",
    "bad": "name: bad\nsteps: [{nam: x}]",
    "later": "{kind: run, workflow: nowhere, inputs: {}}",
}


class Desk:
    """Operations, and the room behind them."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.stops: list[bool] = []
        store = room.engine.store
        settings = Settings(
            folder=room.state / "inbox",
            state=room.state,
            cache=room.state / "cache",
            socket=room.state / "fusemld.sock",
        )
        self.folder = folder_of(room.engine, Catalog(), room.registry)
        self.applications = ApplicationBook(store, Removal(NoServices(), KubeClusters(None), room.registry, {}))
        self.operations = DaemonOperations(
            settings=settings,
            plugins=replace(NO_PLUGINS, names=(("example", "1.0"),)),
            store=store,
            supervisor=room.supervisor,
            performer=room.performer,
            plans=room.engine.plans,
            folder=self.folder,
            registry=room.registry,
            applications=self.applications,
            services=ServiceSupervisor(
                Keeper(room.state), NoEnvironments(), {}, room.state, StoredServices(store)
            ),
            executors={"process": room.executor},
            watchdog=Watchdog(room.supervisor, room.performer, store),
            retention=Retention(
                settings=settings.retention,
                state=room.state,
                store=store,
                supervisor=room.supervisor,
                folder=self.folder,
                codesets=Codesets(room.state, ()),
                folders=RuntimeFolders(environments=room.state, cache=room.state),
                kinds={},
            ),
            backups=Backups(store, room.state / "backups"),
            stop=self.stops.append,
            clock=room.engine.clock,
        )

    async def see(self, **files: str) -> None:
        reports = []
        for name, text in files.items():
            parsed = read(text.encode(), file=PurePath("/inbox") / f"{name}.yaml", root=PurePath("/inbox"))
            reports.append(FileReport(file=f"{name}.yaml", documents=parsed.documents, problems=parsed.problems))
        await self.folder.on_scan(Scan(files=tuple(reports)))

    async def failed_run(self) -> str:
        """One that was started now, and failed at once."""
        launches = len(self.room.executor.launches)
        run = await self.operations.start_run("train", {"rounds": "3"}, None, "ann")
        await self.room.launched(launches + 1)
        self.room.executor.ended(AttemptKey(run.id, "one", 1), Ending.PROGRAM_FAILED)
        await self.room.over(run.id)
        return run.id

    async def to_the_end(self, run: str, ending: Ending) -> None:
        """Let the first step of the run end so."""
        await self.room.launched(1)
        self.room.executor.ended(AttemptKey(run, "one", 1), ending, number="1")
        if ending is Ending.SUCCEEDED:
            await self.room.launched(2)
            self.room.executor.ended(AttemptKey(run, "two", 1))
        await self.room.over(run)


Open = Callable[..., AbstractAsyncContextManager[Desk]]


@pytest.fixture
def desk(room: OpenRoom) -> Open:
    """With the documents of `FILES`."""

    @asynccontextmanager
    async def life(slots: int | None = None) -> AsyncGenerator[Desk]:
        async with room(slots=slots) as running:
            made = Desk(running)
            await made.see(**FILES)
            yield made

    return life


async def test_a_run_is_created_on_request_and_found_by_what_a_person_types(desk: Open) -> None:
    async with desk() as there:
        created = await there.operations.start_run("train", {"rounds": "3"}, None, "ann")
        found = [await there.operations.run(text) for text in (created.id, created.id[-6:], "latest")]
        listed = await there.operations.runs(RunFilter(workflow="train", state=RunState.RUNNING))

        assert {view.id for view in found} == {created.id}
        assert (created.user, created.cause, created.inputs) == ("ann", "requested by ann", {"rounds": "3"})
        assert [step.name for step in created.steps] == ["one", "two"]
        assert [(summary.id, summary.steps_total) for summary in listed] == [(created.id, 2)]


@pytest.mark.parametrize(
    ("workflow", "inputs", "executor", "error", "message"),
    [
        ("trian", {}, None, NotFoundError, "train"),
        ("train", {"rounds": "x"}, None, InvalidInputError, "cannot run workflow 'train': "),
        ("train", {"round": "1"}, None, InvalidInputError, "has no input 'round': did you mean 'rounds'?"),
        ("train", {}, None, InvalidInputError, "needs a value for its input 'rounds'"),
        ("train", {"rounds": "1"}, "kubernetes", InvalidInputError, "'kubernetes': this daemon has: process"),
    ],
)
async def test_a_run_that_cannot_be_is_refused_with_the_reason(
    desk: Open,
    workflow: str,
    inputs: dict[str, str],
    executor: str | None,
    error: type[FusemldError],
    message: str,
) -> None:
    async with desk() as there:
        with pytest.raises(error) as raised:
            await there.operations.start_run(workflow, inputs, executor, "ann")

        assert message in str(raised.value)
        assert await there.operations.runs(RunFilter()) == []


async def test_who_asks_while_nothing_can_be_recorded_is_told_at_once(desk: Open) -> None:
    async with desk() as there:
        run = await there.operations.start_run("train", {"rounds": "3"}, None, "ann")
        there.room.supervisor.trouble = "cannot write to the database: database or disk is full"

        for asking in (
            there.operations.cancel(run.id, "ann"),
            there.operations.retry(run.id, "ann"),
            there.operations.start_run("train", {"rounds": "3"}, None, "ann"),
        ):
            with pytest.raises(UnavailableError, match="disk is full"):
                await asking


async def test_a_run_is_cancelled_and_one_that_is_over_is_not(desk: Open) -> None:
    async with desk() as there:
        run = await there.operations.start_run("train", {"rounds": "3"}, None, "ann")
        await there.room.launched(1)

        view = await there.operations.cancel(run.id, "bob")
        there.room.executor.ended(AttemptKey(run.id, "one", 1), Ending.CANCELLED)
        ended = await there.room.over(run.id)
        with pytest.raises(ConflictError, match="it has ended already"):
            await there.operations.cancel(run.id, "bob")

        assert view.cancel_requested
        assert (ended.state, ended.message) == (RunState.CANCELLED, "cancelled by bob")


async def test_a_failed_run_says_why_and_is_retried_from_what_failed(desk: Open) -> None:
    async with desk() as there:
        run = await there.operations.start_run("train", {"rounds": "3"}, None, "ann")
        await there.to_the_end(run.id, Ending.PROGRAM_FAILED)

        why = await there.operations.why(run.id)
        again = await there.operations.retry(run.id, "ann")

        assert "one" in why.headline
        assert [item.step for item in why.items][:1] == ["one"]
        assert again.state is RunState.RUNNING


async def test_the_changes_of_a_run_end_with_its_final_state(desk: Open) -> None:
    async with desk() as there:
        run = await there.operations.start_run("train", {"rounds": "3"}, None, "ann")
        states: list[RunState] = []

        with anyio.fail_after(10):
            async with aclosing(there.operations.changes(run.id)) as changes:
                states.append((await anext(changes)).state)
                await there.to_the_end(run.id, Ending.SUCCEEDED)
                states += [view.state async for view in changes]

        assert states[0] is RunState.RUNNING
        assert states[-1] is RunState.SUCCEEDED


async def test_the_changes_of_all_runs_begin_with_those_under_way_and_show_each_end(desk: Open) -> None:
    async with desk() as there:
        run = await there.operations.start_run("train", {"rounds": "3"}, None, "ann")

        with anyio.fail_after(10):
            async with aclosing(there.operations.changes(None)) as changes:
                first = await anext(changes)
                await there.to_the_end(run.id, Ending.PROGRAM_FAILED)
                async for view in changes:
                    if view.state is not RunState.RUNNING:
                        break

        assert (first.id, first.state) == (run.id, RunState.RUNNING)
        assert (view.id, view.state) == (run.id, RunState.FAILED)


async def test_the_end_of_a_run_is_told_although_it_began_and_ended_between_two_looks(desk: Open) -> None:
    async with desk() as there:
        slow = await there.operations.start_run("train", {"rounds": "3"}, None, "ann")
        early, late = there.operations.changes(None), there.operations.changes(None)
        async with aclosing(early), aclosing(late):
            with anyio.fail_after(10):
                assert (await anext(early)).id == slow.id
                await there.to_the_end(slow.id, Ending.PROGRAM_FAILED)
                short = await there.failed_run()

                told = [[await anext(changes) for _ in range(2)] for changes in (early, late)]

        assert [[(view.id, view.state) for view in views] for views in told] == [
            [(slow.id, RunState.FAILED), (short, RunState.FAILED)]
        ] * 2


async def test_a_run_that_has_ended_and_goes_on_or_was_deleted_is_not_told_as_ended(desk: Open) -> None:
    async with desk() as there:
        async with aclosing(there.operations.changes(None)) as changes:
            gone, again, last = [await there.failed_run() for _ in range(3)]
            await there.room.supervisor.forget_ended([gone])
            await there.operations.retry(again, "ann")

            with anyio.fail_after(10):
                told = [await anext(changes) for _ in range(2)]

        assert [(view.id, view.state) for view in told] == [(last, RunState.FAILED), (again, RunState.RUNNING)]


async def test_who_has_missed_more_ends_than_are_remembered_is_told_no_further(desk: Open) -> None:
    async with desk() as there:
        there.room.supervisor.ends = Ends(kept=1)
        async with aclosing(there.operations.changes(None)) as changes:
            for _ in range(2):
                await there.failed_run()

            with anyio.fail_after(10), pytest.raises(UnavailableError, match="2 have since the reader last asked"):
                await anext(changes)


async def test_logs_are_those_of_the_attempts_in_the_order_of_their_launch(desk: Open) -> None:
    async with desk() as there:
        run = await there.operations.start_run("train", {"rounds": "3"}, None, "ann")
        await there.room.launched(1)
        early = await there.operations.log_files(run.id, None, None)
        await there.to_the_end(run.id, Ending.SUCCEEDED)
        late = await there.operations.log_files(run.id, None, None)

        assert [(file.step, file.attempt, file.finished) for file in early.files] == [("one", 1, False)]
        assert not early.complete
        assert [(file.step, file.finished) for file in late.files] == [("one", True), ("two", True)]
        assert late.complete
        with pytest.raises(NotFoundError, match=r"has no such step \(it has: one, two\)"):
            await there.operations.log_files(run.id, "three", None)
        with pytest.raises(NotFoundError, match=r"there is no such attempt \(there are: 1\)"):
            await there.operations.log_files(run.id, "one", 9)


async def test_who_asks_for_an_attempt_that_there_is_not_is_told_those_that_there_are(desk: Open) -> None:
    async with desk() as there:
        run = await there.operations.start_run("train", {"rounds": "3"}, None, "ann")
        await there.room.launched(1)
        entry = there.room.supervisor.active[run.id]
        first = entry.run.steps["one"]
        second = replace(first.attempts[0], number=1002)
        entry.run = replace(
            entry.run, steps=entry.run.steps.set("one", replace(first, attempts=(*first.attempts, second)))
        )

        with pytest.raises(NotFoundError, match=r"attempt 2: there is no such attempt \(there are: 1, 1002\)"):
            await there.operations.log_files(run.id, "one", 2)
        with pytest.raises(NotFoundError, match=r"attempt 1: there is no such attempt \(there is none yet\)"):
            await there.operations.log_files(run.id, "two", 1)


async def test_files_are_listed_with_their_states_and_problems(desk: Open) -> None:
    async with desk() as there:
        await there.see(hello="name: hello\nsteps: [{name: one, image: host, command: [ls]}]")
        files = {view.path: view for view in await there.operations.files()}
        runs = await there.operations.runs(RunFilter(workflow="hello"))

        assert {path: view.state for path, view in files.items()} == {
            "bad.yaml": "rejected",
            "code.yaml": "registered",
            "hello.yaml": "registered",
            "later.yaml": "waiting",
            "train.yaml": "registered",
            "vault.yaml": "registered",
        }
        assert files["later.yaml"].detail == "waiting for workflow nowhere"
        assert files["bad.yaml"].problems
        assert files["hello.yaml"].run == runs[0].id


async def test_what_is_registered_is_shown_with_its_file_and_without_secrets(desk: Open) -> None:
    async with desk() as there:
        workflow = await there.operations.workflow("train")
        codeset = await there.operations.codeset("lab", "digits")
        extension = await there.operations.extension("vault")

        assert [view.name for view in await there.operations.workflows()] == ["train"]
        assert workflow.file == "train.yaml"
        assert codeset.name == "digits"
        assert SECRET not in repr(extension)
        for missing in (there.operations.workflow("trian"), there.operations.extension("x")):
            with pytest.raises(NotFoundError, match="cannot show"):
                await missing


async def test_a_workflow_is_explained_and_one_for_an_executor_that_is_not_there_refused(desk: Open) -> None:
    async with desk() as there:
        explained = await there.operations.explain("train", None, "ann")

        assert (explained.project, explained.zone) == ("default", "local")
        assert [(entry.step, entry.requirement) for entry in explained.requirements] == [("one", "v")]
        picked = explained.requirements[0].picked
        assert picked is not None
        assert picked.extension_id == "vault"


@pytest.mark.parametrize(
    ("project", "user", "words"),
    [
        ("team-a", "ann", "not checked: no plugin knows services of resource ''"),
        ("team-a", "bob", "none of its credentials is for user 'bob' in project 'team-a'"),
        (None, "ann", "none of its credentials is for user 'ann' in project 'default'"),
    ],
)
async def test_a_record_is_checked_with_the_credentials_of_a_project_and_user(
    desk: Open, project: str | None, user: str, words: str
) -> None:
    scoped = RECORD.replace("{id: all,", "{id: all, scope: user, projects: [team-a], users: [ann],")
    async with desk() as there:
        await there.see(vault=scoped)

        (check,) = await there.operations.check_extension("vault", project, user)

        assert words in check.message


async def test_what_a_queued_step_waits_for_is_in_its_line(desk: Open) -> None:
    async with desk() as there:
        run = await there.operations.start_run("train", {"rounds": "3"}, None, "ann")
        await there.room.launched(1)
        there.room.executor.started(AttemptKey(run.id, "one", 1))
        await there.room.step("one", lambda step: step.state is StepState.RUNNING, run.id)

        view = await there.operations.run(run.id)

        assert [step.state for step in view.steps] == [StepState.RUNNING, StepState.WAITING]
        assert view.steps[1].reason == "waiting for one"


async def test_a_long_list_of_runs_does_not_count_who_is_before_each(
    desk: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_operations, "COUNTED", 2)
    async with desk(slots=1) as there:
        for _ in range(3):
            await there.operations.start_run("train", {"rounds": "3"}, None, "ann")
        await there.room.launched(1)

        short = [run.now for run in await there.operations.runs(RunFilter(limit=2))]
        long = [run.now for run in await there.operations.runs(RunFilter(limit=3))]

        queued = [text for text in short if "slot is taken" in text]
        assert queued
        assert all("next in line" in text or "before it" in text for text in queued)
        assert long.count("one: the only slot is taken (limits.steps = 1)") == 2


async def test_the_daemon_is_well_until_a_run_breaks_or_the_folder_goes(desk: Open) -> None:
    async with desk() as there:
        run = await there.operations.start_run("train", {"rounds": "3"}, None, "ann")
        well = await there.operations.health()
        there.room.supervisor.post(
            run.id, StepFinished(at=1.0, step="nowhere", attempt=1, outcome=Outcome(ending=Ending.LOST))
        )
        await there.folder.on_scan(Scan(available=False, warning="gone"))
        await there.room.launched(1)
        with anyio.fail_after(5):
            while there.room.supervisor.active[run.id].broken is None:
                await anyio.lowlevel.checkpoint()
        ill = await there.operations.health()

        assert (well.state, well.runs_active, well.steps_active) == (HealthState.OK, 1, 1)
        assert ill.state is HealthState.DEGRADED
        assert [part.name for part in ill.components if not part.ok] == ["watched folder", f"run {run.id}"]


async def test_what_cannot_be_read_is_told_and_everything_else_is_listed(desk: Open, tmp_path: Path) -> None:
    async with desk() as there:
        bad, good = [
            (await there.operations.start_run("train", {"rounds": "3"}, None, "ann")).id for _ in range(2)
        ]
        for name in ("bad", "good"):
            await there.applications.record(Application(name=name, type="t", url="u"))
        with sqlite3.connect(tmp_path / "fusemld.db") as connection:
            connection.execute("UPDATE applications SET data = '{' WHERE key = 'bad'")
            connection.execute("UPDATE run_details SET data = '{' WHERE run = ?", (bad,))
            connection.execute("UPDATE runs SET state = 'failed', finished_at = 1 WHERE id = ?", (bad,))
        connection.close()
        del there.room.supervisor._active[bad]

        runs = {run.id: run.message for run in await there.operations.runs(RunFilter())}
        one = await there.operations.run(bad)
        why = await there.operations.why(bad)
        applications = await there.operations.applications()
        health = await there.operations.health()

        message = f"cannot read the entry {bad!r} of the table run_details"
        assert runs[bad].startswith(message)
        assert runs[good] == ""
        assert one.message == runs[bad]
        assert why.state is RunState.FAILED
        assert [view.name for view in applications] == ["good"]
        assert [part.name for part in health.components if not part.ok] == ["applications bad"]


async def test_what_was_seen_and_cannot_be_stored_is_in_the_health_report(
    desk: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "FIRST_S", 0.001)
    async with desk() as there, anyio.create_task_group() as tasks:
        writer = there.room.engine.store._writer
        await writer.call(lambda connection: connection.execute("PRAGMA query_only = ON"))
        tasks.start_soon(partial(there.see, new="name: new\nsteps: [{name: one, image: host}]"))
        with anyio.fail_after(5):
            while (ill := await there.operations.health()).state is HealthState.OK:
                await anyio.lowlevel.checkpoint()
        await writer.call(lambda connection: connection.execute("PRAGMA query_only = OFF"))
        with anyio.fail_after(5):
            while (well := await there.operations.health()).state is not HealthState.OK:
                await anyio.lowlevel.checkpoint()

        (component,) = [part for part in ill.components if not part.ok]
        assert component.name == "store"
        assert component.message.startswith("cannot write to the database: attempt to write a readonly database")
        assert all(part.message == "" for part in well.components)


async def test_a_full_disk_is_in_the_health_report(desk: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk() as there:
        well = await there.operations.health()
        monkeypatch.setattr("fusemld.daemon.operations.LEAST_FREE_BYTES", 1 << 62)
        full = await there.operations.health()

        assert well.state is HealthState.OK
        assert full.state is HealthState.DEGRADED
        (disk,) = [part for part in full.components if not part.ok]
        assert disk.name == "disk"
        assert disk.message.startswith("the disk is full: ")


async def test_applications_are_listed_and_deleted(desk: Open) -> None:
    async with desk() as there:
        await there.applications.record(Application(name="iris", type="predictor", url="http://x"))

        shown = await there.operations.application("iris")
        await there.operations.delete_application("iris")

        assert shown.url == "http://x"
        assert await there.operations.applications() == []
        with pytest.raises(NotFoundError, match="cannot delete application iris"):
            await there.operations.delete_application("iris")


async def test_an_older_run_never_overwrites_an_application(desk: Open) -> None:
    async with desk() as there:
        newer = Application(name="iris", type="predictor", url="http://new", run="r2", run_created_at=2.0)
        await there.applications.record(newer)

        with pytest.raises(ConflictError, match="the newer run r2 has updated it"):
            await there.applications.record(
                Application(name="iris", type="predictor", url="http://old", run="r1", run_created_at=1.0)
            )

        assert await there.applications.get("iris") == newer


async def test_stopping_is_asked_for_and_does_not_wait(desk: Open) -> None:
    async with desk() as there:
        await there.operations.stop(everything=False)
        await there.operations.stop(everything=True)

        assert there.stops == [False, True]
        assert (await there.operations.version()).plugins[0].name == "example"
        assert await there.operations.services() == []
