"""What goes after a while and what never does: over a real database, real folders and a real supervisor."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import immutables
import pytest
from msgspec.structs import replace

from fusemld.api.views import UpkeepPart, UpkeepView
from fusemld.codesets.codesets import Codesets
from fusemld.daemon.admitting import Admitting
from fusemld.daemon.folder import Folder
from fusemld.daemon.retention import Retention
from fusemld.daemon.settings import RetentionSettings
from fusemld.engine.events import RetryRequested, StepFinished
from fusemld.hooks.building import find_environment
from fusemld.hooks.environments import EnvironmentSpec
from fusemld.hooks.manager import Plugins
from fusemld.hooks.services import ServiceContext, ServicePlan
from fusemld.hooks.steps import RuntimeFolders
from fusemld.intake.catalog import Catalog
from fusemld.intake.snapshot import Scan
from fusemld.model.application import Application
from fusemld.model.codeset import Codeset
from fusemld.model.document import Document
from fusemld.model.errors import NotFoundError
from fusemld.model.run import Ending, Outcome, Run, RunState, StepRun, StepState
from fusemld.model.service import ServiceRecord
from fusemld.registry.registry import Registry
from fusemld.store.changes import PutApplication, PutRun, PutService, PutWorkflow
from fusemld.store.sqlite import Store
from tests.daemon.running import Engine, OpenEngine
from tests.intake.conftest import report

NO_PLUGINS = Plugins(
    names=(), runtimes={}, pod_runtimes={}, steps={}, resolvers={}, service_kinds={}, object_stores={}
)
NOW = 10_000_000.0
DAY = 86_400.0
KEY = "0123456789abcdef01234567"
UNLIMITED = RetentionSettings(
    runs_s=0,
    runs_keep=0,
    logs_s=0,
    logs_bytes=0,
    environments_s=0,
    environments_bytes=0,
    downloads_bytes=0,
    codesets_s=0,
)


class Server:
    """A kind of service whose environment is what its parameters say."""

    kind = "server"
    description = ""
    requires: tuple[str, ...] = ()
    credentials: tuple[str, ...] = ()

    def environment(self, parameters: Mapping[str, str]) -> EnvironmentSpec | None:
        return EnvironmentSpec(label="", requirements=parameters["requirements"])

    def plan(self, context: ServiceContext) -> ServicePlan:
        raise AssertionError(context)


class Host:
    """A state folder with its daemon's parts."""

    def __init__(self, engine: Engine, state: Path, catalog: Catalog) -> None:
        self.engine = engine
        self.store: Store = engine.store
        self.state = state
        self.folders = RuntimeFolders(environments=state / "environments", cache=state / "cache")
        self.folders.environments.mkdir(parents=True, exist_ok=True)
        self.codesets = Codesets(state, (state,))
        self.folder = Folder(
            catalog=catalog,
            registry=Registry(),
            store=engine.store,
            supervisor=engine.supervisor,
            admitting=Admitting(NO_PLUGINS, ["process"], "process"),
            plans=engine.plans,
            default_executor="process",
            clock=engine.clock,
        )

    async def collect(self, *, dry_run: bool = False, **settings: float) -> dict[str, UpkeepPart]:
        """With these settings, everything else without limit."""
        values = {name: getattr(UNLIMITED, name) for name in UNLIMITED.__struct_fields__} | settings
        retention = Retention(
            settings=RetentionSettings(**values),
            state=self.state,
            store=self.store,
            supervisor=self.engine.supervisor,
            folder=self.folder,
            codesets=self.codesets,
            folders=self.folders,
            kinds={"server": Server()},
            clock=self.engine.clock,
        )
        view: UpkeepView = await retention.collect(dry_run=dry_run)
        return {part.what: part for part in view.parts}

    async def ended(
        self, run: str, days_ago: float, state: RunState = RunState.SUCCEEDED, **fields: object
    ) -> None:
        """A run in the database."""
        final = StepState.SUCCEEDED if state is RunState.SUCCEEDED else StepState.FAILED
        await self.store.write(PutRun(stored(run, NOW - days_ago * DAY, state, final, **fields)))

    async def runs(self) -> list[str]:
        return sorted(run.id for run in await self.store.runs())

    def logs(self, run: str, size_bytes: int = 1000) -> Path:
        folder = self.state / "logs" / run
        folder.mkdir(parents=True)
        (folder / "one.1.log").write_bytes(b"x" * size_bytes)
        return folder

    def environment(self, key: str, days_ago: float) -> Path:
        folder = self.folders.environments / key
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").symlink_to(sys.executable)
        marker = folder / "fusemld-environment.json"
        marker.write_text("{}")
        os.utime(marker, (NOW - days_ago * DAY,) * 2)
        return folder

    async def see(self, *removed: str, **files: str) -> None:
        reports = tuple(report(f"{name}.yaml", text) for name, text in files.items())
        await self.folder.on_scan(Scan(files=reports, removed=tuple(f"{name}.yaml" for name in removed)))


def stored(
    id: str,  # noqa: A002
    finished_at: float | None,
    state: RunState,
    step: StepState,
    **fields: object,
) -> Run:
    one = StepRun(name="one", state=step, outputs=fields.pop("outputs", {}))  # type: ignore[arg-type]
    return Run(
        id=id,
        workflow="w",
        workflow_digest=str(fields.pop("digest", f"digest of {id}")),
        created_at=NOW - 100 * DAY,
        finished_at=finished_at,
        state=state,
        steps=immutables.Map({"one": one}),
        **fields,  # type: ignore[arg-type]
    )


OpenHost = Callable[[], AbstractAsyncContextManager[Host]]


@pytest.fixture
def host(engine: OpenEngine, tmp_path: Path) -> OpenHost:
    @asynccontextmanager
    async def life() -> AsyncGenerator[Host]:
        async with engine() as running:
            running.clock.now = NOW
            yield Host(running, tmp_path / "state", Catalog(await running.store.documents()))

    return life


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


HELLO = "name: hello\nsteps: [{name: one, image: host, command: [echo]}]"


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


# Logs


async def test_logs_of_runs_that_are_no_more_go_and_others_by_age(host: OpenHost) -> None:
    async with host() as there:
        await there.ended("old", 40)
        await there.ended("new", 1)
        folders = {name: there.logs(name) for name in ("old", "new", "nobodys")}

        would = await there.collect(dry_run=True, logs_s=30 * DAY)
        all_there = all(folder.is_dir() for folder in folders.values())
        went = await there.collect(logs_s=30 * DAY)

        assert all_there
        assert [name for name, folder in folders.items() if folder.exists()] == ["new"]
        assert would["logs of runs"] == went["logs of runs"]
        assert went["logs of runs"].removed == 2
        assert went["logs of runs"].removed_bytes >= 2000
        assert await there.runs() == ["new", "old"]


async def test_where_logs_are_too_many_those_of_the_runs_that_ended_first_go(host: OpenHost) -> None:
    async with host() as there:
        for number in range(5):
            await there.ended(f"r{number}", 10 - number)
            there.logs(f"r{number}", 100_000)

        parts = await there.collect(logs_bytes=350_000)

        assert sorted(path.name for path in (there.state / "logs").glob("r*")) == ["r2", "r3", "r4"]
        assert parts["logs of runs"].kept_bytes <= 350_000


async def test_logs_of_services_stay_as_long_as_these_are_recorded(host: OpenHost) -> None:
    async with host() as there:
        await there.store.write(
            PutService(ServiceRecord(name="s3", kind="server", parameters={"requirements": ""}, host="h", port=1))
        )
        for name in ("services/s3", "services/gone", "environments"):
            folder = there.state / "logs" / name
            folder.mkdir(parents=True)
            (folder / "1.log").write_text("x")
            for path in (folder / "1.log", folder):
                os.utime(path, (NOW - 40 * DAY,) * 2)

        parts = await there.collect(logs_s=30 * DAY)

        left = [str(path.relative_to(there.state / "logs")) for path in (there.state / "logs").rglob("*.log")]
        assert left == ["services/s3/1.log"]
        assert parts["logs of services and builds"].removed == 2


# Environments


async def test_environments_go_that_nobody_has_asked_for(host: OpenHost) -> None:
    async with host() as there:
        old, new = there.environment(KEY, 40), there.environment("f" * 24, 10)

        would = await there.collect(dry_run=True, environments_s=30 * DAY)
        went = await there.collect(environments_s=30 * DAY)

        assert not old.exists()
        assert new.exists()
        assert would["environments"] == went["environments"]


async def test_asking_for_an_environment_keeps_it(host: OpenHost) -> None:
    async with host() as there:
        folder = there.environment(KEY, 40)
        there.engine.clock.now = folder.stat().st_mtime

        assert find_environment(KEY, there.folders) == folder
        await there.collect(environments_s=30 * DAY)

        assert folder.exists()


@pytest.mark.parametrize("state", [RunState.RUNNING, RunState.FAILED, RunState.CANCELLED])
async def test_an_environment_that_a_run_may_need_stays(host: OpenHost, state: RunState) -> None:
    async with host() as there:
        there.environment(KEY, 400)
        finished_at = None if state is RunState.RUNNING else NOW - DAY
        step = StepState.RUNNING if state is RunState.RUNNING else StepState.FAILED
        image = {"environment": f"localhost/fusemld/mlflow-project:{KEY}"}
        await there.store.write(PutRun(stored("r1", finished_at, state, step, outputs=image)))

        parts = await there.collect(environments_s=30 * DAY)

        assert parts["environments"].kept_by == {"used by a run that goes on or can be retried": 1}


async def test_an_environment_whose_run_succeeded_goes(host: OpenHost) -> None:
    async with host() as there:
        folder = there.environment(KEY, 400)
        await there.ended("r1", 1, outputs={"environment": f"x:{KEY}"})

        await there.collect(environments_s=30 * DAY)

        assert not folder.exists()


async def test_an_environment_that_a_document_names_stays(host: OpenHost) -> None:
    async with host() as there:
        there.environment(KEY, 400)
        await there.see(w=HELLO.replace("image: host", f"image: 'x.example/p:{KEY}'"))

        parts = await there.collect(environments_s=30 * DAY)

        assert parts["environments"].removed == 0


async def test_the_environment_of_a_service_stays(host: OpenHost) -> None:
    async with host() as there:
        key = EnvironmentSpec(label="", requirements="numpy").key
        there.environment(key, 400)
        there.environment(KEY, 400)
        await there.store.write(
            PutService(
                ServiceRecord(name="s", kind="server", parameters={"requirements": "numpy"}, host="h", port=1)
            )
        )

        parts = await there.collect(environments_s=30 * DAY)

        assert parts["environments"].kept_by == {"used by a service": 1}
        assert parts["environments"].removed == 1


@pytest.mark.parametrize(("kind", "parameters"), [("unknown", {}), ("server", {})])
async def test_where_a_service_cannot_say_what_it_uses_nothing_goes(
    host: OpenHost, kind: str, parameters: dict[str, str]
) -> None:
    async with host() as there:
        there.environment(KEY, 400)
        record = ServiceRecord(name="odd", kind=kind, parameters=parameters, host="h", port=1)
        await there.store.write(PutService(record))

        parts = await there.collect(environments_s=30 * DAY)

        assert parts["environments"].kept_by == {"perhaps used by the service odd, which does not say": 1}


async def test_the_environment_of_a_running_process_stays(host: OpenHost) -> None:
    async with host() as there:
        folder = there.environment(KEY, 400)
        command = [str(folder / "bin" / "python"), "-c", "print(1, flush=True); input()"]
        async with await anyio.open_process(command, stderr=None) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            await process.stdout.receive()
            parts = await there.collect(environments_s=30 * DAY)
            await process.stdin.send(b"\n")
            await process.wait()
        later = await there.collect(environments_s=30 * DAY)

        assert parts["environments"].kept_by == {"used by a running process": 1}
        assert later["environments"].removed == 1


async def test_where_environments_are_too_many_those_asked_for_longest_ago_go(host: OpenHost) -> None:
    async with host() as there:
        folders = [there.environment(f"{number:024x}", 10 - number) for number in range(4)]
        for folder in folders:
            (folder / "data").write_bytes(b"x" * 1_000_000)

        await there.collect(environments_bytes=2_200_000)

        assert [folder.exists() for folder in folders] == [False, False, True, True]


async def test_what_was_downloaded_goes_when_it_is_too_much_and_environments_keep_their_files(
    host: OpenHost,
) -> None:
    async with host() as there:
        cache = there.folders.cache
        (cache / "archive-v0").mkdir(parents=True)
        (cache / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55")
        (cache / "archive-v0" / "data").write_bytes(b"x" * 100_000)
        kept = there.environment(KEY, 1) / "data"
        kept.hardlink_to(cache / "archive-v0" / "data")

        within = await there.collect(downloads_bytes=1_000_000)
        would = await there.collect(dry_run=True, downloads_bytes=50_000)
        went = await there.collect(downloads_bytes=50_000)

        assert within["downloads of uv"].kept_by == {"within the limit": 1}
        assert would["downloads of uv"] == went["downloads of uv"]
        assert went["downloads of uv"].removed_bytes > 100_000
        assert not (cache / "archive-v0").exists()
        assert kept.stat().st_size == 100_000


async def test_a_cache_elsewhere_is_left_alone(host: OpenHost, tmp_path: Path) -> None:
    async with host() as there:
        there.folders = RuntimeFolders(environments=there.folders.environments, cache=tmp_path / "shared")
        there.folders.cache.mkdir()
        (there.folders.cache / "data").write_bytes(b"x" * 100_000)

        parts = await there.collect(downloads_bytes=1)

        assert parts["downloads of uv"].kept_by == {"not in the state folder": 1}
        assert (there.folders.cache / "data").exists()


# Codesets


async def test_copies_of_codesets_go_unless_a_run_needs_them(host: OpenHost) -> None:
    async with host() as there:
        pins = {}
        for name in ("unused", "failed", "recent"):
            source = there.state / name
            source.mkdir()
            (source / "a.txt").write_text(name)
            pins[name] = await there.codesets.pin(Codeset(name=name, path=str(source)))
            copy = there.state / "codesets" / "content" / pins[name].digest
            os.utime(copy, (NOW - (1 if name == "recent" else 40) * DAY,) * 2)
        await there.ended("r1", 1, RunState.FAILED, codesets={"failed": pins["failed"]})
        await there.ended("r2", 1, RunState.SUCCEEDED, codesets={"unused": pins["unused"]})

        would = await there.collect(dry_run=True, codesets_s=7 * DAY)
        went = await there.collect(codesets_s=7 * DAY)

        assert would["copies of codesets"] == went["copies of codesets"]
        assert went["copies of codesets"].kept_by == {
            "used by a run that goes on or can be retried": 1,
            "recent": 1,
        }
        assert (await there.codesets.source(pins["failed"])).is_dir()
        with pytest.raises(NotFoundError):
            await there.codesets.source(pins["unused"])


# The loop


async def test_it_happens_by_itself_and_trouble_does_not_end_it(
    host: OpenHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with host() as there:
        await there.ended("old", 100)
        retention = Retention(
            settings=RetentionSettings(every_s=0.01),
            state=there.state,
            store=there.store,
            supervisor=there.engine.supervisor,
            folder=there.folder,
            codesets=there.codesets,
            folders=there.folders,
            kinds={},
            clock=there.engine.clock,
        )
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
        retention = Retention(
            settings=RetentionSettings(every_s=0),
            state=there.state,
            store=there.store,
            supervisor=there.engine.supervisor,
            folder=there.folder,
            codesets=there.codesets,
            folders=there.folders,
            kinds={},
            clock=there.engine.clock,
        )

        with anyio.fail_after(5):
            await retention.run()
