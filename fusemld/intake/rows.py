"""Rows of the catalog: made of documents, compared by digest, and read back after a restart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from fusemld.model.codeset import Codeset
from fusemld.model.document import (
    HELD,
    Assignment,
    Declared,
    Document,
    DocumentRecord,
    DocumentState,
    Kind,
    Restoration,
    RunRequest,
)
from fusemld.model.problem import Problem, Severity
from fusemld.model.workflow import Workflow

READABLE: dict[Kind, type[Declared]] = {
    Kind.WORKFLOW: Workflow,
    Kind.CODESET: Codeset,
    Kind.ASSIGNMENT: Assignment,
    Kind.RUN: RunRequest,
}
"""What a stored row can give back. Extensions are missing: their credentials are not stored."""


def digest_of(document: Document) -> str:
    """What generations go by. The name of a run request does not count: it is only for people, and made of the
    file's name where there is none."""
    if not isinstance(document.declared, RunRequest):
        return document.digest
    text = msgspec.json.encode(msgspec.structs.replace(document.declared, name=""), order="deterministic")
    return hashlib.sha256(text).hexdigest()


def row_of(
    key: str, file: str, index: int, owner: str, document: Document, before: DocumentRecord | None
) -> DocumentRecord:
    """The row of a document that is there now; `before` is what was remembered under the key."""
    digest = digest_of(document)
    same = before is not None and before.digest == digest
    stayed = before is not None and (before.present or before.state is DocumentState.REJECTED)
    row = DocumentRecord(
        key=key,
        file=file,
        index=index,
        kind=document.kind,
        name=document.name,
        digest=digest,
        generation=(before.generation if before else 0) + (0 if same and stayed else 1),
        canonical=None if document.kind is Kind.EXTENSION else document.canonical,
        owner=owner,
        line=document.line,
        problems=document.problems,
    )
    if before is None:
        return row
    row = msgspec.structs.replace(
        row,
        started_generation=before.started_generation,
        started_versions=before.started_versions if same else _not_held(before.started_versions),
        run=before.run if row.generation == before.generation else "",
    )
    if same and before.present:
        return msgspec.structs.replace(row, state=before.state, detail=before.detail, problems=before.problems)
    return row


def _not_held(versions: dict[str, str]) -> dict[str, str]:
    """Who asks for something else asks for it now."""
    return {reference: mark for reference, mark in versions.items() if mark != HELD}


def held(row: DocumentRecord, document: Document, restoration: Restoration) -> DocumentRecord:
    """The row of a document that is new to a database which was restored after its file was written: what it asks
    for may have run, so it counts as run."""
    match document.declared:
        case Assignment(codesets=references):
            versions = dict.fromkeys(map(str, references), HELD)
            return msgspec.structs.replace(row, started_versions=versions)
        case Workflow(inputs=inputs) if any(entry.default is None for entry in inputs):
            return row
        case Workflow() | RunRequest():
            return msgspec.structs.replace(
                row,
                started_generation=row.generation,
                state=DocumentState.WAITING,
                detail=restoration.detail,
            )
        case _:
            return row


def declared_again(row: DocumentRecord) -> Document | None:
    """The document of a row as it was; None where the row cannot tell."""
    if row.kind is None or row.kind not in READABLE or row.canonical is None:
        return None
    try:
        declared = msgspec.json.decode(row.canonical, type=READABLE[row.kind])
    except msgspec.MsgspecError:
        return None
    return Document(
        kind=row.kind,
        name=row.name,
        declared=declared,
        canonical=row.canonical,
        digest=row.digest,
        line=row.line,
        problems=tuple(problem for problem in row.problems if problem.severity is Severity.WARNING),
    )


def errors_in(problems: Iterable[Problem]) -> list[Problem]:
    return [problem for problem in problems if problem.severity is Severity.ERROR]
