"""Codesets: what was declared, how they are referred to, and what a run has pinned."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import msgspec

from fusemld.model.template import NAME_LENGTH

DEFAULT_PROJECT = "default"


class CodesetReference(msgspec.Struct, frozen=True, kw_only=True):
    """`name`, `project/name`, either with `@REF`. `ref` is None where the codeset's own ref holds."""

    project: str = DEFAULT_PROJECT
    name: str
    ref: str | None = None

    def __str__(self) -> str:
        return f"{self.project}/{self.name}" + (f"@{self.ref}" if self.ref else "")


def parse_reference(text: str) -> CodesetReference:
    """Raises ValueError with a message for people."""
    if len(text) > NAME_LENGTH:
        raise ValueError(f"a codeset reference has at most {NAME_LENGTH:,} characters, and this {len(text):,}")
    rest, at, ref = text.strip().partition("@")
    project, slash, name = rest.rpartition("/")
    if not name or (slash and not project) or (at and not ref) or "/" in project:
        raise ValueError(f"{text!r} is not a codeset reference: write NAME or PROJECT/NAME, either with @REF")
    return CodesetReference(project=project or DEFAULT_PROJECT, name=name, ref=ref or None)


def nearest_key(key: str, known: Iterable[str]) -> str | None:
    """The `project/name` that was meant, perhaps: the same name in another project, or one like it."""
    project, _, name = key.rpartition("/")
    by_name: dict[str, str] = {}
    for candidate in sorted(known, key=lambda candidate: candidate.startswith(f"{project}/")):
        by_name[candidate.rpartition("/")[2]] = candidate
    near = difflib.get_close_matches(name, by_name, n=1)
    return by_name[near[0]] if near else None


class Codeset(msgspec.Struct, frozen=True, kw_only=True):
    """A git repository (`url`) or a folder of the host (`path`, absolute): exactly one of them is set.

    `extension` names a registry record that holds the repository's credentials.
    """

    project: str = DEFAULT_PROJECT
    name: str
    description: str = ""
    labels: tuple[str, ...] = ()
    url: str | None = None
    ref: str | None = None
    path: str | None = None
    extension: str | None = None

    @property
    def key(self) -> str:
        return f"{self.project}/{self.name}"


class PinnedCodeset(msgspec.Struct, frozen=True, kw_only=True):
    """The files of one codeset as every step of a run sees them.

    `version` is a git commit or, for a folder, `sha256:` and the digest of its content; `digest` keys the
    copy of the content that codesets keep on disk; `url` is where it came from, without credentials.
    """

    project: str
    name: str
    version: str
    url: str
    digest: str
    size_bytes: int = 0
