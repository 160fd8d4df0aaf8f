"""What a file of the watched folder can declare."""

from __future__ import annotations

import enum

import msgspec

from fusemld.model.codeset import Codeset, CodesetReference
from fusemld.model.extension import Extension
from fusemld.model.problem import Problem
from fusemld.model.workflow import Workflow


class Kind(enum.StrEnum):
    WORKFLOW = "workflow"
    EXTENSION = "extension"
    CODESET = "codeset"
    ASSIGNMENT = "assignment"
    RUN = "run"


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """The workflow runs for each codeset now, and again whenever the codeset changes."""

    name: str
    workflow: str
    codesets: tuple[CodesetReference, ...]
    input: str | None = None
    inputs: dict[str, str] = {}


class RunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One run of `workflow`. `name` is only for people."""

    name: str
    workflow: str
    inputs: dict[str, str] = {}
    executor: str | None = None


Declared = Workflow | Extension | Codeset | Assignment | RunRequest


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted document of a file.

    `name` is unique per kind (`project/name` for a codeset, the id of an extension). `canonical` is the
    document as JSON in a normal form: equal content gives equal text, whatever its layout and comments;
    `digest` is the SHA-256 of it. Nothing that holds a credential may be stored: see `Kind.EXTENSION`.
    """

    kind: Kind
    name: str
    declared: Declared
    canonical: str
    digest: str
    line: int = 1
    problems: tuple[Problem, ...] = ()
