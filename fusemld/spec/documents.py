"""The entry point: the bytes of a file become its documents, or all that is wrong with it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container
from pathlib import PurePath
from typing import Final

import msgspec

from fusemld.model.document import Declared, Document, Kind
from fusemld.model.problem import Problem, Severity
from fusemld.model.workflow import CredentialRisk
from fusemld.spec.canonical import canonical_of
from fusemld.spec.leaves import NAME_PATTERN
from fusemld.spec.nodes import MappingNode, Node, ScalarNode, SequenceNode, parse, shown_key
from fusemld.spec.places import Places, codeset_places, request_places, workflow_places
from fusemld.spec.reader import MAX_ERRORS, Findings, TooManyErrors, read_shape
from fusemld.spec.records import read_assignment, read_codeset, read_extension, read_run
from fusemld.spec.shapes import AssignmentShape, CodesetShape, ExtensionShape, RunShape, WorkflowShape
from fusemld.spec.workflows import read_workflow

_NAME: Final = re.compile(NAME_PATTERN)
_HOW_TO_BE: Final = (
    "a workflow has 'steps', an extension 'services', a codeset 'name' with 'url' or 'path', an assignment "
    "'workflow' with 'codesets', a run request 'workflow' with 'inputs'; or say which it is with 'kind'"
)


class Parsed(msgspec.Struct, frozen=True, kw_only=True):
    """What a file holds. With an error among the problems there are no documents.

    `problems` are in the order of the file. After a hundred errors reading stops, and the last one says so.
    """

    documents: tuple[Document, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def is_accepted(self) -> bool:
        return not any(problem.severity is Severity.ERROR for problem in self.problems)


def read(data: bytes, *, file: PurePath | str, root: PurePath | str | None = None) -> Parsed:
    """The documents of a file, or everything that is wrong with it; raises nothing.

    `file` is its absolute path: relative paths of codesets are relative to its folder, and a run request or an
    assignment without a name gets one that is made of the file's path (below `root`, if given) and its position.
    """
    path = PurePath(file)
    nodes, syntax_problems = parse(data)
    findings = Findings()
    documents: dict[tuple[Kind, str], Document] = {}
    try:
        for number, node in enumerate(nodes, start=1):
            document = _document(node, path, _default_name(path, root, number), findings)
            if document is None:
                continue
            first = documents.setdefault((document.kind, document.name), document)
            if first is not document:
                findings.error(
                    f"this file already declares the {document.kind.value} {document.name!r} "
                    f"in line {first.line}: rename or remove one",
                    node.place,
                )
    except TooManyErrors:
        last = max(findings.problems, key=lambda problem: problem.line)
        stopped = Problem(message=f"stopped after {MAX_ERRORS} errors: mend these first", line=last.line)
        return Parsed(problems=(*_told(syntax_problems, findings), stopped))
    parsed = Parsed(documents=tuple(documents.values()), problems=_told(syntax_problems, findings))
    return parsed if parsed.is_accepted else msgspec.structs.replace(parsed, documents=())


def _told(syntax_problems: list[Problem], findings: Findings) -> tuple[Problem, ...]:
    """In the order of the file. What else is wrong in a line that is wrong as YAML follows from that."""
    broken = {problem.line for problem in syntax_problems}
    problems = [*syntax_problems, *(problem for problem in findings.problems if problem.line not in broken)]
    return tuple(sorted(dict.fromkeys(problems), key=lambda problem: (problem.line, problem.column)))


def _document(node: Node, file: PurePath, default_name: str, findings: Findings) -> Document | None:
    """None where the document has an error."""
    if not isinstance(node, MappingNode):
        is_list = isinstance(node, SequenceNode)
        findings.error(
            f"a document must be a mapping of fields, not {'a list' if is_list else 'text'}: {_HOW_TO_BE}",
            node.place,
        )
        return None
    kind = _kind(node, findings)
    if kind is None:
        return None
    own = findings.child()
    try:
        declared, name, risks, places = _declared(node, kind, file, default_name, own)
    finally:
        findings.take(own)
    if own.has_errors:
        return None
    canonical, digest = canonical_of(declared)
    return Document(
        kind=kind,
        name=name,
        declared=declared,
        canonical=canonical,
        digest=digest,
        line=node.place.line,
        risks=risks,
        places=places,
        problems=tuple(own.problems),
    )


def _declared(
    node: MappingNode, kind: Kind, file: PurePath, default_name: str, findings: Findings
) -> tuple[Declared, str, tuple[CredentialRisk, ...], Places]:
    match kind:
        case Kind.WORKFLOW:
            shape = read_shape(node, WorkflowShape, findings)
            workflow, risks = read_workflow(shape, findings)
            return workflow, workflow.name, risks, workflow_places(shape)
        case Kind.EXTENSION:
            extension = read_extension(read_shape(node, ExtensionShape, findings), findings)
            return extension, extension.id, (), {}
        case Kind.CODESET:
            described = read_shape(node, CodesetShape, findings)
            codeset = read_codeset(described, file, findings)
            return codeset, codeset.key, (), codeset_places(described)
        case Kind.ASSIGNMENT:
            assigned = read_shape(node, AssignmentShape, findings)
            assignment = read_assignment(assigned, default_name, findings)
            return assignment, assignment.name, (), request_places(assigned)
        case Kind.RUN:
            requested = read_shape(node, RunShape, findings)
            run = read_run(requested, default_name)
            return run, run.name, (), request_places(requested)


def _kind(node: MappingNode, findings: Findings) -> Kind | None:
    kinds = [kind.value for kind in Kind]
    if "kind" in node.entries:
        _, value = node.entries["kind"]
        if isinstance(value, ScalarNode) and not value.is_null:
            if value.text in kinds:
                return Kind(value.text)
            remedy = findings.suggestion(value.text, kinds) or f": use one of {', '.join(kinds)}"
            findings.error(f"unknown kind {value.text[:60]!r}{remedy}", value.place)
            return None
    inferred = _inferred(node.entries)
    if inferred is None:
        shown = ", ".join(shown_key(name).strip("'\"") for name in list(node.entries)[:10]) or "no field"
        findings.error(f"cannot tell what this document is (it has {shown}): {_HOW_TO_BE}", node.place)
    return inferred


def _inferred(given: Container[str]) -> Kind | None:
    if "steps" in given:
        return Kind.WORKFLOW
    if "services" in given:
        return Kind.EXTENSION
    if "name" in given and ("url" in given or "path" in given):
        return Kind.CODESET
    if "workflow" in given and "codesets" in given:
        return Kind.ASSIGNMENT
    if "workflow" in given and "inputs" in given:
        return Kind.RUN
    return None


def _default_name(file: PurePath, root: PurePath | str | None, number: int) -> str:
    """A valid name made of the file's path and the document's position in it."""
    inside = file.relative_to(root) if root is not None and file.is_relative_to(root) else PurePath(file.name)
    name = ".".join(inside.with_suffix("").parts) + ("" if number == 1 else f".{number}")
    if _NAME.fullmatch(name):
        return name
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("._-")[:80]
    return f"{cleaned or 'file'}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
