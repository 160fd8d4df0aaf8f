"""Python environments built by uv, keyed by their content, shared by everything that asks for the same."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

Note = Callable[[str], None]
"""Takes one line that tells a person what is going on right now; cheap, never durable."""


class EnvironmentSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A virtualenv with an interpreter `python` (`3.11`; empty: the daemon's own) and `requirements` in the
    format of a requirements file. `label` is for people and does not count for the key."""

    label: str
    requirements: str
    python: str = ""

    @property
    def key(self) -> str:
        """Hash of what decides about the content."""
        python = self.python or ".".join(platform.python_version_tuple()[:2])
        return hashlib.sha256(f"{python}\n{self.requirements}".encode()).hexdigest()[:24]


class Environments(Protocol):
    async def ensure(self, spec: EnvironmentSpec, note: Note) -> Path:
        """The folder of a complete environment (its interpreter is `bin/python`), built if need be.

        Raises `StartError` with the installer's own words, e.g. where an interpreter cannot be had."""
