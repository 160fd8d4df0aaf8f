"""The performer with everything it needs: real registry, codesets and store; executor and plugins are doubles."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import MappingProxyType

import anyio
from anyio.abc import TaskStatus

from fusemld.codesets.codesets import Codesets
from fusemld.daemon.applications import ApplicationBook
from fusemld.daemon.performing import StepPerformer
from fusemld.daemon.pinning import Pinner
from fusemld.daemon.preparing import Parts
from fusemld.daemon.removal import Removal
from fusemld.hooks.environments import EnvironmentSpec, Note
from fusemld.hooks.executors import AttemptFinished, AttemptStarted, Condition, Launch, Report
from fusemld.hooks.manager import Plugins
from fusemld.hooks.services import ServiceAddress, ServiceRequest
from fusemld.hooks.steps import PluginStep, RuntimeFolders, StepContext, StepInputs
from fusemld.kube.clusters import KubeClusters
from fusemld.model.document import Document, Kind
from fusemld.model.errors import StartError
from fusemld.model.extension import Extension
from fusemld.model.run import AttemptKey, Ending, Outcome, Run, StepRun
from fusemld.registry.registry import Registry
from tests.daemon.running import Engine, document_of

SECRET = "canary-7d1f"
RECORD = f"""
id: vault
product: vault
services:
  - id: main
    auth_required: true
    endpoints: [{{url: "http://vault"}}]
    credentials: [{{id: all, configuration: {{TOKEN: {SECRET}}}}}]
"""


class NoServices:
    """A host without embedded services; `removed` are those that were to be removed all the same."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    async def ensure(self, request: ServiceRequest, note: Note) -> ServiceAddress:
        raise StartError(f"cannot start {request.name}: there are no services here")

    async def remove(self, name: str) -> None:
        self.removed.append(name)

    def find(self, name: str) -> ServiceAddress | None:
        return None

    def folder(self, name: str) -> Path:
        raise AssertionError(name)


class NoEnvironments:
    async def ensure(self, spec: EnvironmentSpec, note: Note) -> Path:
        raise StartError(f"cannot build {spec.label}: there are no environments here")


class RecordingExecutor:
    """Starts nothing: notes what it is asked for, and reports what a test tells it to."""

    name = "process"
    zone = "local"

    def __init__(self) -> None:
        self.launches: list[Launch] = []
        self.kills: list[AttemptKey] = []
        self.forgotten: list[AttemptKey] = []
        self.known: frozenset[AttemptKey] = frozenset()
        self.lost: frozenset[AttemptKey] = frozenset()
        self.asked_about: list[AttemptKey] = []
        self.on_recover: Callable[[Sequence[AttemptKey]], None] = lambda _: None
        self.spared: frozenset[str] = frozenset()
        self.reachable = anyio.Event()
        self.reachable.set()
        self.on_launch: Callable[[Launch], Awaitable[None]] | None = None
        self.on_forget: Callable[[AttemptKey], None] = self.forgotten.append
        self.has_forgotten = anyio.Event()
        self._report: Report | None = None

    async def run(self, report: Report, *, task_status: TaskStatus[None]) -> None:
        self._report = report
        await self.reachable.wait()
        task_status.started()
        await anyio.sleep_forever()

    async def launch(self, launch: Launch) -> None:
        self.launches.append(launch)
        if self.on_launch is not None:
            await self.on_launch(launch)

    async def recover(self, keys: Sequence[AttemptKey], spared: Collection[str] = ()) -> frozenset[AttemptKey]:
        self.asked_about += keys
        self.spared = frozenset(spared)
        self.on_recover(keys)
        return self.known & frozenset(keys)

    async def kill(self, key: AttemptKey, grace_s: float) -> None:
        self.kills.append(key)

    async def unknown(self, keys: Sequence[AttemptKey]) -> frozenset[AttemptKey]:
        return self.lost & frozenset(keys)

    async def forget(self, key: AttemptKey) -> None:
        self.on_forget(key)
        self.has_forgotten.set()

    def condition(self) -> Condition:
        return Condition(ok=self.reachable.is_set(), message="" if self.reachable.is_set() else "no answer")

    def log_path(self, key: AttemptKey) -> Path:
        raise AssertionError(key)

    def started(self, key: AttemptKey) -> None:
        assert self._report is not None
        self._report(AttemptStarted(key=key, at=1001.0))

    def ended(self, key: AttemptKey, ending: Ending = Ending.SUCCEEDED, **outputs: str) -> None:
        assert self._report is not None
        self._report(AttemptFinished(key=key, at=1002.0, outcome=Outcome(ending=ending), outputs=outputs))


class ScriptedStep:
    """A plugin step that does what a test says."""

    repositories: tuple[str, ...] = ("steered",)
    inputs = StepInputs(optional=frozenset({"x"}), ignored={"old": "nobody needs it"})

    def __init__(self, script: Callable[[StepContext], Awaitable[Mapping[str, str]]]) -> None:
        self._script = script

    async def run(self, context: StepContext) -> Mapping[str, str]:
        return await self._script(context)


class Room:
    """An engine whose performer is the real one."""

    def __init__(
        self,
        engine: Engine,
        state: Path,
        script: ScriptedStep | None = None,
        others: Mapping[str, RecordingExecutor] = MappingProxyType({}),
    ) -> None:
        self.engine = engine
        self.supervisor = engine.supervisor
        self.executor = RecordingExecutor()
        self.registry = Registry()
        self.codesets: dict[str, Document] = {}
        self.state = state
        self.files = state / "sources"
        self.files.mkdir(parents=True, exist_ok=True)
        self.records_read = anyio.Event()
        self.records_read.set()
        services = NoServices()
        steps: dict[str, PluginStep] = {} if script is None else {"steered": script}
        self.performer = StepPerformer(
            Parts(
                plugins=Plugins(
                    names=(),
                    runtimes={},
                    pod_runtimes={},
                    steps=steps,
                    resolvers={},
                    service_kinds={},
                    object_stores={},
                ),
                executors={"process": self.executor, **others},
                registry=self.registry,
                pinner=Pinner(
                    Codesets(state, (self.files,)),
                    self.registry,
                    services,
                    lambda: self.codesets,
                    self._extensions_read,
                    zone="local",
                    timeout_s=60,
                    clock=engine.clock,
                    monotonic=engine.clock,
                ),
                services=services,
                clusters=KubeClusters(None),
                zone="local",
                environments=NoEnvironments(),
                applications=ApplicationBook(
                    engine.store, Removal(services, KubeClusters(None), self.registry, {})
                ),
                folders=RuntimeFolders(environments=state / "environments", cache=state / "cache"),
                state=state,
                grace_s=1.0,
                extensions_read=self._extensions_read,
                keep_outputs=engine.store.keep_outputs,
            ),
            engine.supervisor,
            engine.clock,
        )
        record = document_of(RECORD).declared
        assert isinstance(record, Extension)
        self.registry.upsert(record)

    async def start(self) -> None:
        await self.supervisor.load(await self.engine.store.unfinished_runs())
        await self.engine.tasks.start(self.performer.run)
        await self.engine.tasks.start(self.supervisor.run, self.performer)

    async def _extensions_read(self, note: Note) -> None:
        note(f"waiting for records, not for {SECRET}" if self.records_read.is_set() else "waiting for records")
        await self.records_read.wait()

    def codeset(self, name: str, **files: str) -> Path:
        """A codeset that is a folder, registered in the project `lab`."""
        folder = self.files / name
        folder.mkdir(exist_ok=True)
        for file, text in files.items():
            (folder / file).write_text(text)
        document = document_of(f"{{kind: codeset, project: lab, name: {name}, path: '{folder}'}}")
        assert document.kind is Kind.CODESET
        self.codesets[document.name] = document
        return folder

    async def over(self, run: str = "r1") -> Run:
        """The run as it ended."""
        await self.engine.until(lambda: self.supervisor.find(run) is None)
        return await self.engine.stored(run)

    async def step(self, name: str, is_so: Callable[[StepRun], bool], run: str = "r1") -> StepRun:
        """The step, once it is so."""
        await self.engine.until(lambda: is_so(self.supervisor.active[run].run.steps[name]))
        return self.supervisor.active[run].run.steps[name]

    async def launched(self, number: int) -> Launch:
        """The launch of that number, counted from 1, once it was asked for."""
        with anyio.fail_after(10):
            while len(self.executor.launches) < number:
                await anyio.lowlevel.checkpoint()
        return self.executor.launches[number - 1]


OpenRoom = Callable[..., AbstractAsyncContextManager[Room]]
