"""The store against a dictionary: any writes, alone and together, crashes at any moment, and every question."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

import anyio
import immutables
import msgspec
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)
from msgspec.structs import replace

from fusemld.model.application import Application
from fusemld.model.codeset import PinnedCodeset
from fusemld.model.document import DocumentRecord, RememberedFile
from fusemld.model.errors import InvalidInputError, NotFoundError
from fusemld.model.run import LONG_OUTPUTS, Attempt, Ending, Outcome, Run, RunState, StepRun, StepState
from fusemld.model.service import ServiceRecord
from fusemld.store.changes import (
    Change,
    DeleteApplication,
    DeleteDocument,
    DeleteFile,
    DeleteRuns,
    DeleteService,
    DeleteUnusedWorkflows,
    PutApplication,
    PutDocument,
    PutFile,
    PutMeta,
    PutRun,
    PutService,
    PutWorkflow,
)
from fusemld.store.errors import StoreConflictError
from fusemld.store.keys import INSTANCE
from fusemld.store.outputs import FOLDER
from fusemld.store.reads import RunQuery
from fusemld.store.sqlite import Store

KEYS = st.sampled_from(["a", "b", "c"])
RUN_IDS = st.sampled_from(["r1", "r2", "r12", "x1", "x2"])
WORDS = st.sampled_from(["", "one", "Ünïcode\n", "'; DROP TABLE runs; --"])
ANY_BYTES = st.binary(max_size=8).map(lambda data: data.decode("utf-8", "surrogateescape"))
LONG = st.sampled_from(["x", "\udcff\n"]).map(lambda text: text * LONG_OUTPUTS)
PINS = {
    "code": PinnedCodeset(project="default", name="code", version="1", url="", digest="d"),
    "lab/data@v1": PinnedCodeset(project="lab", name="data", version="2", url="", digest="e"),
}


@st.composite
def step_runs(draw: st.DrawFn, name: str) -> StepRun:
    state = draw(st.sampled_from(StepState))
    outcome = draw(
        st.none() | st.builds(Outcome, ending=st.sampled_from(Ending), tail=ANY_BYTES, message=ANY_BYTES)
    )
    attempts = (Attempt(number=1, reason="first", launched_at=1.5, outcome=outcome),)
    return StepRun(
        name=name,
        state=state,
        reason=draw(WORDS),
        deadline=draw(st.none() | st.just(5.25)),
        attempts=draw(st.just(attempts) | st.just(())),
        losses=draw(st.integers(0, 2)),
        outputs={"o": draw(ANY_BYTES | LONG)} if state is StepState.SUCCEEDED else {},
    )


@st.composite
def runs(draw: st.DrawFn) -> Run:
    return Run(
        id=draw(RUN_IDS),
        workflow=draw(KEYS),
        workflow_digest=draw(KEYS),
        project=draw(st.sampled_from(["default", "lab"])),
        user=draw(WORDS),
        cause=draw(WORDS),
        created_at=draw(st.sampled_from([1.0, 2.0])),
        inputs=draw(st.dictionaries(KEYS, WORDS, max_size=2)),
        steps=immutables.Map({name: draw(step_runs(name)) for name in ("s", "t")}),
    )


@st.composite
def ends(draw: st.DrawFn, run: Run) -> PutRun:
    """The next state of a run that is stored: one step further, and maybe over."""
    name = draw(st.sampled_from(sorted(run.steps)))
    step = run.steps[name]
    if step.state is not StepState.SUCCEEDED:
        step = draw(step_runs(name))
    state = draw(st.sampled_from(RunState))
    is_over = state is not RunState.RUNNING
    steps = run.steps.set(name, step)
    of_steps = [output for each in steps.values() for output in each.outputs.values()]
    after = replace(
        run,
        state=state,
        message=draw(WORDS),
        cancel_requested=draw(st.booleans()),
        finished_at=9.0 if is_over else None,
        codesets=draw(st.just(run.codesets) | st.sampled_from([{}, PINS])),
        steps=steps,
        outputs={"result": draw(st.sampled_from(["", *of_steps]) | ANY_BYTES)}
        if state is RunState.SUCCEEDED
        else run.outputs,
    )
    return PutRun(after, (name,), draw(st.sampled_from([run, None])))


DOCUMENTS = st.builds(DocumentRecord, key=KEYS, file=WORDS, generation=st.integers(0, 3))
FILES = st.builds(
    RememberedFile,
    path=KEYS,
    inode=st.integers(0, 2**63),
    size_bytes=st.just(1),
    mtime_ns=st.just(2),
    ctime_ns=st.just(3),
    mark=WORDS,
)
APPLICATIONS = st.builds(Application, name=KEYS, type=WORDS, url=WORDS, revision=st.integers(1, 3))
SERVICES = st.builds(ServiceRecord, name=KEYS, kind=WORDS, host=WORDS, port=st.integers(1, 3))
SIMPLE: st.SearchStrategy[Change] = st.one_of(
    st.builds(PutWorkflow, KEYS, st.just("w"), WORDS),
    st.just(DeleteUnusedWorkflows()),
    st.builds(DeleteRuns, st.lists(RUN_IDS, max_size=2).map(tuple)),
    st.builds(PutDocument, DOCUMENTS),
    st.builds(DeleteDocument, KEYS),
    st.builds(PutFile, FILES),
    st.builds(DeleteFile, KEYS),
    st.builds(PutApplication, APPLICATIONS),
    st.builds(DeleteApplication, KEYS),
    st.builds(PutService, SERVICES),
    st.builds(DeleteService, KEYS),
    st.builds(PutMeta, KEYS, WORDS),
    st.builds(PutRun, runs()),
)


QUERIES = st.one_of(
    st.builds(RunQuery, limit=st.integers(0, 3), offset=st.integers(0, 3)),
    st.builds(
        RunQuery,
        workflow=st.none() | KEYS,
        project=st.none() | st.sampled_from(["default", "lab"]),
        state=st.none() | st.sampled_from(RunState),
        codeset=st.none() | st.sampled_from(["default/code", "lab/data", "lab/none"]),
    ),
)


class Conflict(Exception):  # noqa: N818 -- an answer of the model
    pass


class Model:
    """What a database with these tables is for: nothing but dictionaries."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.workflows: dict[str, str] = {}
        self.records: dict[str, dict[str, msgspec.Struct]] = {
            name: {} for name in ("documents", "remembered_files", "applications", "services")
        }
        self.meta: dict[str, str] = {}

    def copy(self) -> Model:
        other = Model()
        other.runs, other.workflows, other.meta = dict(self.runs), dict(self.workflows), dict(self.meta)
        other.records = {name: dict(records) for name, records in self.records.items()}
        return other

    def written(self, changes: Iterable[Change]) -> Model | None:
        """As it is after all of the changes; None where one of them contradicts it."""
        after = self.copy()
        try:
            for change in changes:
                after._apply(change)
        except Conflict:
            return None
        return after

    def _apply(self, change: Change) -> None:
        match change:
            case PutRun(run, None):
                if run.id in self.runs:
                    raise Conflict
                self.runs[run.id] = run
            case PutRun(run):
                if run.id not in self.runs:
                    raise Conflict
                self.runs[run.id] = run
            case DeleteRuns(ids):
                for run_id in ids:
                    if run_id in self.runs and self.runs[run_id].finished_at is not None:
                        del self.runs[run_id]
            case PutWorkflow(digest, _, canonical):
                self.workflows.setdefault(digest, canonical)
            case DeleteUnusedWorkflows():
                used = {run.workflow_digest for run in self.runs.values()}
                self.workflows = {key: text for key, text in self.workflows.items() if key in used}
            case PutDocument(record):
                self.records["documents"][record.key] = record
            case DeleteDocument(key):
                self.records["documents"].pop(key, None)
            case PutFile(file):
                self.records["remembered_files"][file.path] = file
            case DeleteFile(path):
                self.records["remembered_files"].pop(path, None)
            case PutApplication(application):
                self.records["applications"][application.name] = application
            case DeleteApplication(name):
                self.records["applications"].pop(name, None)
            case PutService(service):
                self.records["services"][service.name] = service
            case DeleteService(name):
                self.records["services"].pop(name, None)
            case PutMeta(key, value):
                self.meta[key] = value
            case _:
                raise AssertionError(change)

    def matching(self, query: RunQuery) -> list[Run]:
        """Newest first, whatever the limit."""

        def is_meant(run: Run) -> bool:
            pins = (run.codesets or {}).values()
            return (
                query.workflow in (None, run.workflow)
                and query.project in (None, run.project)
                and query.state in (None, run.state)
                and (query.codeset is None or query.codeset in {f"{pin.project}/{pin.name}" for pin in pins})
            )

        found = [run for run in self.runs.values() if is_meant(run)]
        return sorted(found, key=lambda run: (run.created_at, run.id), reverse=True)

    def meant(self, text: str) -> set[str]:
        """The ids that a person may mean."""
        if text == "latest":
            return {run.id for run in self.matching(RunQuery())[:1]}
        if text in self.runs:
            return {text}
        return {run_id for run_id in self.runs if text and (run_id.startswith(text) or run_id.endswith(text))}


class StoreMachine(RuleBasedStateMachine):
    """`known` are runs as some write has left them, which need not be what is stored now."""

    known = Bundle("known")

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="fusemld-store-")))
        self.portal: BlockingPortal = self.stack.enter_context(start_blocking_portal("asyncio"))
        self.model = Model()
        self.life = 0
        self.path.parent.mkdir()
        self.open()

    @initialize(target=known, first=st.lists(runs(), max_size=6))
    def begin(self, first: list[Run]) -> MultipleResults[Run]:
        self.instance = self.portal.call(self.store.meta, INSTANCE)
        assert self.instance
        self.write_together([(PutRun(run),) for run in first])
        return multiple(*first)

    def open(self) -> None:
        self.opened: AbstractContextManager[Store] = self.portal.wrap_async_context_manager(Store.open(self.path))
        self.store = self.opened.__enter__()

    @property
    def path(self) -> Path:
        return self.folder / str(self.life) / "fusemld.db"

    def close(self) -> None:
        self.opened.__exit__(None, None, None)

    def teardown(self) -> None:
        self.close()
        self.stack.close()

    def expect(self, groups: Sequence[Sequence[Change]]) -> list[bool]:
        """Tell the model what is written in this order; which of the groups it takes."""
        taken = []
        for changes in groups:
            after = self.model.written(changes)
            self.model = after or self.model
            taken.append(after is not None)
        return taken

    # Writing

    @rule(target=known, run=runs())
    def create(self, run: Run) -> Run:
        self.write_together([(PutRun(run),)])
        return run

    @rule(target=known, data=st.data(), run=consumes(known))
    def go_on(self, data: st.DataObject, run: Run) -> Run:
        """Only the latest state of a run is ever written: there is one writer of each."""
        current = self.model.runs.get(run.id)
        if current is None:
            return run
        change = data.draw(ends(current))
        self.write_together([(change,)])
        return change.run

    @rule(groups=st.lists(st.lists(SIMPLE, min_size=1, max_size=4), min_size=1, max_size=5))
    def write_together(self, groups: Sequence[Sequence[Change]]) -> None:
        """Each group by a caller of its own, all at the same time: they share commits, and no fate."""
        groups = [[self.kept(change) for change in changes] for changes in groups]
        expected = self.expect(groups)

        assert self.portal.call(_written, self.store, groups) == expected

    def kept(self, change: Change) -> Change:
        """With long outputs of steps where they are before the change."""
        if not isinstance(change, PutRun):
            return change
        run = change.run
        for step in run.steps.values():
            file = self.portal.call(self.store.keep_outputs, run.id, step.outputs)
            run = replace(run, steps=run.steps.set(step.name, replace(step, outputs_file=file)))
        return replace(change, run=run)

    @rule(changes=st.lists(SIMPLE, min_size=1, max_size=3), run=known, beside=st.lists(SIMPLE, max_size=2))
    def write_what_is_refused(self, changes: Sequence[Change], run: Run, beside: Sequence[Change]) -> None:
        """A run is created again, after other changes: nothing of that is written, alone or in company."""
        if run.id in self.model.runs and not any(isinstance(change, DeleteRuns) for change in changes):
            self.write_together([(*changes, PutRun(run)), *([beside] if beside else [])])

    # Ends of lives

    @rule()
    def close_and_open_again(self) -> None:
        self.close()
        self.open()

    @rule()
    def crash(self) -> None:
        """What was acknowledged is there in a copy of the files that nobody has closed."""
        self.move_on_with_a_copy()

    @rule(changes=st.lists(SIMPLE, min_size=1, max_size=4))
    def crash_while_writing(self, changes: Sequence[Change]) -> None:
        """Then all of it is there, or nothing."""
        before = self.model
        changes = [self.kept(change) for change in changes]
        after = before.written(changes) or before
        writing = self.portal.start_task_soon(partial(_written, self.store, [changes]))
        self.move_on_with_a_copy()
        assert writing.done()

        self.model = after if self.agrees_with(after) else before

    def move_on_with_a_copy(self) -> None:
        old = self.path
        self.life += 1
        self.path.parent.mkdir()
        for suffix in ("", "-wal"):
            source = old.with_name(old.name + suffix)
            if source.exists():
                shutil.copyfile(source, self.path.with_name(source.name))
        if old.with_name(FOLDER).exists():
            shutil.copytree(old.with_name(FOLDER), self.path.with_name(FOLDER))
        self.close()
        self.open()

    # Reading

    @invariant()
    def everything_is_there(self) -> None:
        assert self.agrees_with(self.model)

    def agrees_with(self, model: Model) -> bool:
        stored = {run.id: run for run in self.portal.call(self.store.runs)}
        return (
            stored == model.runs
            and {key: self.portal.call(self.store.workflow, key) for key in "abc"}
            == {key: model.workflows.get(key) for key in "abc"}
            and {key: self.portal.call(self.store.meta, key) for key in "abc"}
            == {key: model.meta.get(key) for key in "abc"}
            and all(
                self.portal.call(getattr(self.store, name)) == [records[key] for key in sorted(records)]
                for name, records in model.records.items()
            )
        )

    @invariant()
    def it_is_still_the_same(self) -> None:
        assert self.portal.call(self.store.meta, INSTANCE) == self.instance

    @rule(queries=st.lists(QUERIES, min_size=3, max_size=6))
    def ask_for_runs(self, queries: list[RunQuery]) -> None:
        for query in queries:
            matching = self.model.matching(query)
            assert self.portal.call(self.store.runs, query) == matching[query.offset : query.offset + query.limit]
            assert self.portal.call(self.store.run_count, query) == len(matching)

    @rule()
    def ask_for_unfinished_runs(self) -> None:
        unfinished = [run for run in self.model.matching(RunQuery()) if run.finished_at is None]
        unfinished.sort(key=lambda run: (run.created_at, run.id))

        assert self.portal.call(self.store.unfinished_runs) == unfinished

    @rule(text=st.sampled_from(["latest", "", "r", "r1", "1", "2", "x", "%", "12"]))
    def find(self, text: str) -> None:
        meant = self.model.meant(text)
        if len(meant) == 1:
            assert {self.portal.call(self.store.find_run, text)} == meant
        else:
            with pytest.raises(InvalidInputError if meant else NotFoundError):
                self.portal.call(self.store.find_run, text)


async def _written(store: Store, groups: Sequence[Sequence[Change]]) -> list[bool]:
    """Write all groups at the same time; which of them were taken."""
    taken = [True] * len(groups)

    async def write(number: int, changes: Sequence[Change]) -> None:
        try:
            await store.write(*changes)
        except StoreConflictError:
            taken[number] = False

    async with anyio.create_task_group() as tasks:
        for number, changes in enumerate(groups):
            tasks.start_soon(write, number, changes)
    return taken


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=max(30, settings().max_examples // 3), stateful_step_count=20)
