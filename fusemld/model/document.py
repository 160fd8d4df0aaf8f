"""What a file of the watched folder can declare."""

from __future__ import annotations

import enum

import msgspec

from fusemld.model.codeset import Codeset, CodesetReference
from fusemld.model.extension import Extension
from fusemld.model.problem import Problem
from fusemld.model.workflow import CredentialRisk, Workflow


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
    `digest` is the SHA-256 of it. For an extension the values under credentials are hidden in `canonical` (`***`),
    and count for `digest` all the same. `risks` are a workflow's uses of configuration values where none may
    come from credentials: the registry knows whether they do. `problems` are warnings. `places` are the lines and
    columns of what a check that needs more than the text may complain about, by path: `("steps", STEP, "inputs",
    NAME)`; empty where the document comes from the store.
    """

    kind: Kind
    name: str
    declared: Declared
    canonical: str
    digest: str
    line: int = 1
    risks: tuple[CredentialRisk, ...] = ()
    problems: tuple[Problem, ...] = ()
    places: dict[tuple[str, ...], tuple[int, int]] = {}

    def problem(self, message: str, *path: str) -> Problem:
        """An error at the place of `path`, or of the nearest part above it that has one."""
        for end in range(len(path), 0, -1):
            if (place := self.places.get(path[:end])) is not None:
                return Problem(message=message, line=place[0], column=place[1])
        return Problem(message=message, line=self.line)


class DocumentState(enum.StrEnum):
    """`accepted`: in force. `rejected`: not, `detail` says why. `waiting`: in force, `detail` says what its run
    waits for. `shadowed`: another file declared the name first. `unavailable`: its file cannot be read now, what
    it declared stays. `removed`: kept for its generation only."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    WAITING = "waiting"
    SHADOWED = "shadowed"
    UNAVAILABLE = "unavailable"
    REMOVED = "removed"


class DocumentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of one document of the watched folder, or of a file none could be read from.

    `key` is unique: `KIND/NAME` for the holder of a name, `run/FILE#INDEX` for a run request,
    `shadowed/FILE#INDEX` for a document whose name is taken, `file/FILE` for the problems of a whole file
    (`kind` None, `name` and `digest` empty). `file` is relative to the watched folder. `present` is False for what
    the folder does not declare any more: such a row stays because generations never go back. A generation above
    `started_generation` may start a run. `started_versions` says for an assignment what it last ran for,
    by codeset reference: `TERMS@VERSION`, TERMS being a digest of its workflow and inputs. `run` is the latest run
    that this generation started, empty before the first. `canonical` is None for extensions: credentials are
    never stored.
    """

    key: str
    file: str
    index: int = 0
    kind: Kind | None = None
    name: str = ""
    digest: str = ""
    generation: int = 0
    started_generation: int = 0
    started_versions: dict[str, str] = {}
    run: str = ""
    present: bool = True
    state: DocumentState = DocumentState.ACCEPTED
    detail: str = ""
    canonical: str | None = None
    owner: str = ""
    line: int = 1
    risks: tuple[CredentialRisk, ...] = ()
    problems: tuple[Problem, ...] = ()


HELD = "held"
"""In the place of a version in `DocumentRecord.started_versions`: whichever is found next counts as run."""


class Restoration(msgspec.Struct, frozen=True, kw_only=True):
    """The database became a copy of an earlier one at `at`, seconds since the epoch. What an older file asks for
    may have run before that, so it is not run; `why` tells people."""

    at: float
    why: str

    @property
    def detail(self) -> str:
        return f"not run: {self.why}, and it may have run since then; to run it, remove the file and drop it again"


class RememberedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the watched folder (`path` is relative to it) as `stat` showed it when it was read. `mark` is
    equal for equal bytes of the same owner.

    If it was `at_rest` then, it has the same content for as long as it looks like that: who changes it cannot hide
    it from `ctime_ns`. Otherwise only reading it tells, and its mark whether it needs to be parsed.
    """

    path: str
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    mark: str
    at_rest: bool = True
