"""What goes after a while and what never does."""

from __future__ import annotations

import math
import os
import time
from functools import partial

import anyio
import anyio.lowlevel
import immutables
import pytest
from msgspec.structs import replace

from fusemld.api.views import UpkeepPart
from fusemld.daemon.settings import RetentionSettings
from fusemld.engine.events import RetryRequested, StepFinished
from fusemld.model.application import Application
from fusemld.model.document import Document
from fusemld.model.errors import NotFoundError, UnavailableError
from fusemld.model.run import Ending, Outcome, RunState, StepRun, StepState
from fusemld.store.changes import PutApplication, PutRun, PutWorkflow
from tests.daemon.retaining import DAY, HELLO, KEY, NOW, Host, OpenHost
from tests.daemon.running import disk_is_full, never_answered

# Runs


async def test_runs_go_by_age_and_succeeded_ones_by_number_too(host: OpenHost) -> None:
    async with host() as there:
        await there.ended("old", 91)
        await there.ended("old-failed", 91, RunState.FAILED)
        for number in range(4):
            await there.ended(f"r{number}", number + 1)
        await there.ended("failed", 50, RunState.FAILED)
        await there.ended("cancelled", 50, RunState.CANCELLED)

        would = await there.collect(dry_run=True, runs_s=90 * DAY, runs_keep=2)
        before = await there.runs()
        went = await there.collect(runs_s=90 * DAY, runs_keep=2)

        assert len(before) == 8
        assert await there.runs() == ["cancelled", "failed", "r0", "r1"]
        assert went["runs"] == would["runs"]
        assert went["runs"].removed == 4
        assert went["runs"].kept_by == {"recent": 2, "failed or cancelled lately: can be retried": 2}


async def test_without_limits_nothing_goes(host: OpenHost) -> None:
    async with host() as there:
        await there.ended("old", 1000)
        there.logs("old")
        there.environment(KEY, 1000)

        parts = await there.collect()

        assert await there.runs() == ["old"]
        assert {part.removed for part in parts.values()} == {0}


async def test_unfinished_runs_stay_with_their_logs_and_workflow(host: OpenHost, chain: Document) -> None:
    async with host() as there:
        there.engine.clock.now = NOW - 500 * DAY
        await there.engine.create(chain, "r1")
        there.engine.clock.now = NOW
        logs = there.logs("r1")

        parts = await there.collect(runs_s=1, runs_keep=1, logs_s=1, logs_bytes=1)

        assert await there.runs() == ["r1"]
        assert logs.is_dir()
        assert parts["runs"].kept_by == {"unfinished": 1}
        assert parts["logs of runs"].kept_by == {"of an unfinished run": 1}
        assert await there.store.workflow(chain.digest) is not None


async def test_the_run_of_an_application_stays(host: OpenHost) -> None:
    async with host() as there:
        await there.ended("served", 1000)
        await there.store.write(
            PutApplication(Application(name="iris", type="predictor", url="http://x", run="served"))
        )

        parts = await there.collect(runs_s=1)

        assert await there.runs() == ["served"]
        assert parts["runs"].kept_by == {"the run of an application": 1}


async def test_the_content_of_a_workflow_goes_with_its_last_run(host: OpenHost) -> None:
    async with host() as there:
        for digest in ("d1", "d2"):
            await there.store.write(PutWorkflow(digest, "w", "{}"))
        await there.ended("old", 10, digest="d1")
        await there.ended("older", 20, digest="d2")
        await there.ended("new", 1, digest="d1")

        would = await there.collect(dry_run=True, runs_s=5 * DAY)
        went = await there.collect(runs_s=5 * DAY)

        assert would["contents of workflows"].removed == went["contents of workflows"].removed == 1
        assert await there.store.workflow("d1") is not None
        assert await there.store.workflow("d2") is None


async def test_a_run_that_is_asked_to_go_on_and_one_that_is_forgotten_never_meet(
    host: OpenHost, chain: Document
) -> None:
    """Both at once, again and again: either the run goes on and is whole, or it is not there."""
    async with host() as there:
        for number in range(20):
            run, _, workflow = there.engine.run_of(chain, f"r{number}")
            steps = {name: StepRun(name=name, state=StepState.FAILED) for name in run.steps}
            failed = replace(run, state=RunState.FAILED, finished_at=1.0, codesets={}, steps=immutables.Map(steps))
            await there.store.write(workflow, PutRun(failed))
        outcomes: dict[str, bool] = {}

        async def retry(run: str) -> None:
            try:
                await there.engine.supervisor.request(run, RetryRequested(at=NOW))
                outcomes[run] = True
            except NotFoundError:
                outcomes[run] = False

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(retry, f"r{number}")
                if number == 10:
                    tasks.start_soon(there.engine.supervisor.forget_ended, [f"r{n}" for n in range(20)])

        alive = {run for run, went_on in outcomes.items() if went_on}
        assert set(await there.runs()) == alive == set(there.engine.supervisor.active)
        assert all(entry.broken is None for entry in there.engine.supervisor.active.values())
        assert [len((await there.engine.stored(run)).steps) for run in alive] == [2] * len(alive)


# Documents


async def test_a_removed_document_is_remembered_while_one_of_its_runs_is(host: OpenHost) -> None:
    async with host() as there:
        await there.see(
            hello=HELLO, code="{kind: codeset, project: lab, name: code, url: 'https://x.example/a.git'}"
        )
        await there.see("hello", "code")

        with_run = await there.collect()
        remembered = there.folder.catalog.record("workflow/hello")
        (run,) = await there.runs()
        ended = StepFinished(at=NOW, step="one", attempt=1, outcome=Outcome(ending=Ending.SUCCEEDED))
        there.engine.supervisor.post(run, ended)
        await there.engine.until(lambda: there.engine.supervisor.find(run) is None)
        there.engine.clock.now += 100 * DAY
        without = await there.collect(runs_s=90 * DAY)
        rows = [row.key for row in await there.store.documents()]

    assert (with_run["removed documents"].removed, with_run["removed documents"].kept) == (1, 1)
    assert remembered is not None
    assert without["removed documents"].removed == 1
    assert rows == []


# All parts


async def test_a_dry_run_says_of_every_part_what_a_run_then_does(host: OpenHost, chain: Document) -> None:
    """What goes in one part has kept things in others: of each kind there is one that is used by nobody, by a run
    that goes, and by a run that stays."""
    users = {"old": 100, "young": 1}
    keys = {"nobody": "0" * 24, "old": "1" * 24, "young": "2" * 24}
    async with host() as there:
        for user, days_ago in users.items():
            await there.store.write(PutWorkflow(f"digest of {user}", "w", "{}"))
            await there.ended(
                user,
                days_ago,
                RunState.FAILED,
                cause=f"workflow/{user} generation 1",
                outputs={"image": f"localhost/fusemld/project:{keys[user]}"},
                codesets={"code": await there.pinned(f"code-of-{user}", 50)},
            )
        await there.pinned("code-of-nobody", 50)
        await there.engine.create(chain, "going")
        for number in range(3):
            await there.ended(f"succeeded-{number}", 2 + number)
        for run in (*users, "nobody", "going", "succeeded-0", "succeeded-1", "succeeded-2"):
            there.logs(run, 100_000)
            await there.outputs(run)
        for service in ("new", "gone"):
            log = there.state / "logs" / "services" / service / "1.log"
            log.parent.mkdir(parents=True)
            log.write_text("x")
            for path in (log, log.parent):
                os.utime(path, (NOW - (1 if service == "new" else 100) * DAY,) * 2)
        for key in keys.values():
            there.environment(key, 50)
        there.folders.cache.mkdir()
        (there.folders.cache / "data").write_bytes(b"x" * 100_000)
        documents = {user: HELLO.replace("hello", f"{user}\ninputs: [{{name: x}}]") for user in keys}
        await there.see(**documents)
        await there.see(*documents)
        collect = partial(
            there.collect,
            runs_s=90 * DAY,
            runs_keep=3,
            logs_s=90 * DAY,
            logs_bytes=350_000,
            environments_s=30 * DAY,
            downloads_bytes=50_000,
            codesets_s=7 * DAY,
            codesets_bytes=1,
        )

        would = await collect(dry_run=True)
        went = await collect()
        again = await collect(dry_run=True)

        for what, part in went.items():
            assert would[what] == part, what
        assert {what: part.removed for what, part in went.items()} == {
            "runs": 2,
            "long outputs": 3,
            "contents of workflows": 1,
            "removed documents": 2,
            "logs of runs": 4,
            "logs of services and builds": 1,
            "copies of codesets": 2,
            "environments": 2,
            "downloads of uv": 1,
        }
        assert {part.removed for part in again.values()} == {0}


# What fails


async def long_unused(there: Host) -> None:
    """Of every part there is something that `without_long_unused` lets go."""
    await there.store.write(PutWorkflow("nobody's", "w", "{}"))
    await there.ended("old", 100)
    await there.see(w=HELLO.replace("hello", "hello\ninputs: [{name: x}]"))
    await there.see("w")
    await there.pinned("unused", 50)
    there.environment(KEY, 50)
    there.folders.cache.mkdir()
    (there.folders.cache / "data").write_bytes(b"x" * 100_000)
    there.logs("nobody")
    await there.outputs("nobody")
    build = there.state / "logs" / "environments" / "1.log"
    build.parent.mkdir()
    build.write_text("x")
    os.utime(build, (NOW - 50 * DAY,) * 2)


async def without_long_unused(there: Host) -> dict[str, UpkeepPart]:
    return await there.collect(runs_s=DAY, logs_s=DAY, environments_s=DAY, downloads_bytes=1, codesets_s=DAY)


PARTS = {
    "runs",
    "long outputs",
    "contents of workflows",
    "removed documents",
    "logs of runs",
    "logs of services and builds",
    "copies of codesets",
    "environments",
    "downloads of uv",
}


ROWS = {"runs", "contents of workflows", "removed documents"}


async def test_no_run_is_forgotten_while_one_that_is_to_go_on_waits_for_the_database(
    host: OpenHost, chain: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with host() as there, anyio.create_task_group() as tasks:
        supervisor = there.engine.supervisor
        run, _, workflow = there.engine.run_of(chain, "r1")
        await there.store.write(workflow, PutRun(replace(run, state=RunState.FAILED, finished_at=1.0)))
        await there.ended("old", 100)
        monkeypatch.setattr(there.store, "write", disk_is_full)
        tasks.start_soon(supervisor.request, "r1", RetryRequested(at=NOW))
        while not supervisor.trouble:
            await anyio.lowlevel.checkpoint()

        with anyio.fail_after(10), pytest.raises(UnavailableError, match="disk is full"):
            await supervisor.forget_ended(["old"])
        tasks.cancel_scope.cancel()

        assert await there.runs() == ["old", "r1"]


@pytest.mark.parametrize(
    ("broken", "failing"),
    [
        ("../outputs", {"long outputs"}),
        ("logs", {"logs of runs", "logs of services and builds"}),
        ("codesets/content", {"copies of codesets"}),
        ("environments", {"environments", "downloads of uv"}),
    ],
)
async def test_a_part_that_fails_says_why_and_the_others_go_on(
    host: OpenHost, broken: str, failing: set[str]
) -> None:
    async with host() as there:
        await long_unused(there)
        place = (there.state / broken).resolve()
        place.rename(there.state / "elsewhere")
        place.write_text("a file where a folder should be")

        parts = await without_long_unused(there)

        assert {what for what, part in parts.items() if part.error} == failing
        assert all(str(place) in parts[what].error for what in failing)
        assert {what for what, part in parts.items() if part.removed} == PARTS - failing


async def test_where_the_database_cannot_be_written_folders_go_all_the_same(
    host: OpenHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the watched folder waits for it."""
    async with host() as there, anyio.create_task_group() as tasks:
        await long_unused(there)
        monkeypatch.setattr(there.store, "write", disk_is_full)
        tasks.start_soon(partial(there.see, another=HELLO))
        while not there.folder.trouble:
            await anyio.lowlevel.checkpoint()

        with anyio.fail_after(10):
            parts = await without_long_unused(there)
        tasks.cancel_scope.cancel()

        assert {what for what, part in parts.items() if "disk is full" in part.error} == ROWS
        assert {what for what, part in parts.items() if part.removed} == PARTS - ROWS
        assert await there.runs() == ["old"]


async def test_a_removed_document_that_cannot_be_forgotten_now_is_forgotten_later(
    host: OpenHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with host() as there:
        await long_unused(there)
        with monkeypatch.context() as patch:
            patch.setattr(there.store, "write", disk_is_full)
            first = await there.collect()
        second = await there.collect()

        assert (first["removed documents"].removed, second["removed documents"].removed) == (0, 1)
        assert await there.store.documents() == []


# The loop


async def test_it_happens_by_itself_and_trouble_does_not_end_it(
    host: OpenHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with host() as there:
        await there.ended("old", 100)
        retention = there.retention(RetentionSettings(every_s=0.01))
        (there.state / "logs").write_text("a file where a folder should be")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(retention.run)
            with anyio.fail_after(10):
                while await there.runs():
                    await anyio.lowlevel.checkpoint()
                (there.state / "logs").unlink()
                nobodys = there.logs("nobodys")
                while nobodys.exists():
                    await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()


async def test_with_no_interval_it_happens_on_request_only(host: OpenHost) -> None:
    async with host() as there:
        retention = there.retention(RetentionSettings(every_s=0))

        with anyio.fail_after(5):
            await retention.run()


async def test_it_can_be_seen_that_a_pass_does_not_end_and_that_the_next_one_is_not_due_yet(
    host: OpenHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with host() as there, anyio.create_task_group() as tasks:
        retention = there.retention()
        monkeypatch.setattr(there.store, "aged_runs", never_answered)
        tasks.start_soon(retention.collect)
        await anyio.wait_all_tasks_blocked()
        meanwhile = retention.passing.doing
        tasks.cancel_scope.cancel()

    assert meanwhile == "letting go of runs"
    assert (retention.passing.doing, retention.passing.due_at) == ("", math.inf)


async def test_between_two_passes_it_can_be_seen_when_the_next_one_is_due(host: OpenHost) -> None:
    async with host() as there, anyio.create_task_group() as tasks:
        retention = there.retention(RetentionSettings(every_s=30.0))
        tasks.start_soon(retention.run)
        await anyio.wait_all_tasks_blocked()
        due_s = retention.rounds.due_at - time.monotonic()
        tasks.cancel_scope.cancel()

    assert 20.0 < due_s <= 30.0
    assert retention.passing.due_at == math.inf
