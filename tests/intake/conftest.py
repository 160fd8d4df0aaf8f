"""Documents as the language reads them, and a folder in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

import pytest

from fusemld.intake.catalog import Catalog, DueRun
from fusemld.intake.snapshot import FileReport, Scan
from fusemld.model.document import DocumentRecord
from fusemld.spec.documents import read

ROOT = PurePath("/inbox")

WORKFLOW = """
name: {name}
description: "{text}"
steps:
  - name: one
    image: python:3.11
    command: ["true"]
"""
TRAIN = """
name: train
inputs:
  - {name: code, type: codeset}
  - {name: rounds, type: int, default: 3}
steps:
  - name: one
    image: python:3.11
    inputs:
      - name: code
        codeset: {name: "{{ inputs.code }}", path: /project}
    command: ["true"]
"""
CODESET = "{{kind: codeset, name: {name}, project: lab, url: 'https://example.org/{name}.git'}}"
REQUEST = "{{kind: run, workflow: {workflow}, inputs: {inputs}}}"
ASSIGNMENT = "{{kind: assignment, name: nightly, workflow: train, codesets: {codesets}, inputs: {inputs}}}"


def report(file: str, text: str, *, owner: str = "ann") -> FileReport:
    parsed = read(text.encode(), file=ROOT / file, root=ROOT)
    return FileReport(file=file, owner=owner, documents=parsed.documents, problems=parsed.problems)


class Inbox:
    """A catalog with its store: rows survive `restart`, runs that are due are started at once and noted."""

    def __init__(self) -> None:
        self.rows: dict[str, DocumentRecord] = {}
        self.files: dict[str, str] = {}
        self.started: list[DueRun] = []
        self.catalog = Catalog()
        self.refused: Callable[[DueRun], bool] = lambda _: False
        """Which runs cannot be started."""

    def scan(self, *, write: dict[str, str] | None = None, remove: tuple[str, ...] = ()) -> list[str]:
        """Returns the documents that started a run."""
        self.files |= write or {}
        for file in remove:
            self.files.pop(file, None)
        reports = tuple(report(file, text) for file, text in (write or {}).items())
        return self.take(Scan(files=reports, removed=remove))

    def take(self, scan: Scan) -> list[str]:
        update = self.catalog.apply(scan)
        self.rows |= {row.key: row for row in update.records}
        for key in update.forgotten:
            del self.rows[key]
        return self.start_due()

    def seen(self, name: str, version: str, problem: str = "") -> list[str]:
        polled = next(polled for polled in self.catalog.polled() if str(polled.reference) == name)
        update = self.catalog.codeset_seen(polled, version, problem)
        self.rows |= {row.key: row for row in update.records}
        return self.start_due()

    def start_due(self) -> list[str]:
        started = []
        for run in self.catalog.due():
            if self.refused(run):
                self.rows |= {row.key: row for row in self.catalog.failed(run, "a bug").records}
                continue
            self.rows[run.document] = self.catalog.starting(run)
            self.catalog.started(run, self.rows[run.document])
            started.append(run)
        self.started += started
        assert self.catalog.due() == ()
        return [run.document for run in started]

    def restart(self) -> list[str]:
        """The daemon is killed, started again, and looks at the folder."""
        self.catalog = Catalog(self.rows.values())
        first = self.start_due()
        gone = tuple(file for file in self.catalog.files if file not in self.files)
        return first + self.scan(write=dict(self.files), remove=gone)

    def state(self, key: str) -> str:
        row = self.rows[key]
        return f"{row.state}: {row.detail}" if row.detail else str(row.state)


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture(scope="session")
def new_inbox() -> Callable[[], Inbox]:
    return Inbox


@pytest.fixture
def workflow() -> Callable[..., str]:
    """A workflow without inputs: it runs as soon as it is there."""
    return lambda name="hello", text="": WORKFLOW.format(name=name, text=text)


@pytest.fixture
def train() -> str:
    """A workflow that needs a codeset."""
    return TRAIN


@pytest.fixture
def codeset() -> Callable[..., str]:
    return lambda name="digits": CODESET.format(name=name)


@pytest.fixture
def request_for() -> Callable[..., str]:
    return lambda workflow="train", inputs="{code: lab/digits}": REQUEST.format(workflow=workflow, inputs=inputs)


@pytest.fixture
def assignment() -> Callable[..., str]:
    return lambda codesets="[lab/digits]", inputs="{}": ASSIGNMENT.format(codesets=codesets, inputs=inputs)
