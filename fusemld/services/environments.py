"""Environments built by processes of the keeper: they go on when the daemon stops, and have a log."""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from pathlib import Path

import anyio
import msgspec

from fusemld.hooks.building import find_environment, network_environment, passwords, tool_environment
from fusemld.hooks.environments import EnvironmentSpec, Note
from fusemld.hooks.processes import ProcessEnded, Processes, ProcessRequest
from fusemld.hooks.steps import RuntimeFolders
from fusemld.model.errors import StartError
from fusemld.services.endings import Endings, in_words

PREFIX = "environment/"
_LOOK_S = 0.2
_MOST_LOSSES = 3


class KeeperEnvironments:
    """Implements `fusemld.hooks.environments.Environments`.

    All who ask for the same environment share one build and see its progress, also those who ask while a
    build that an earlier daemon began is still under way. A build that its keeper lost is begun again.
    """

    def __init__(
        self, processes: Processes, folders: RuntimeFolders, logs: Path, build_timeout_s: float = 3600.0
    ) -> None:
        self._processes = processes
        self._folders = folders
        self._logs = logs
        self._build_timeout_s = build_timeout_s
        self._endings = Endings(processes, PREFIX)
        self._locks: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)

    async def ensure(self, spec: EnvironmentSpec, note: Note) -> Path:
        if ready := find_environment(spec.key, self._folders):
            note(f"reusing environment {spec.key[:8]} of {spec.label}")
            return ready
        for _ in range(_MOST_LOSSES):
            ended, log = await self._build(spec, note)
            if ready := find_environment(spec.key, self._folders):
                return ready
            if ended.lost is None:
                raise StartError(_reason(spec, ended, log))
            note(f"the build of {spec.label} {in_words(ended)}; building again")
        raise StartError(
            f"cannot build the environment of {spec.label}: its builder was lost {_MOST_LOSSES} times"
        )

    async def _build(self, spec: EnvironmentSpec, note: Note) -> tuple[ProcessEnded, Path]:
        """One build from its beginning, or the rest of one that is under way."""
        async with self._locks[spec.key]:
            key = await self._running(spec) or await self._start(spec)
        log = self._log(key)
        seen = 0
        with anyio.move_on_after(self._build_timeout_s) as deadline:
            while self._endings.ending(key) is None:
                with anyio.move_on_after(_LOOK_S):
                    await self._endings.wait(key)
                seen = _tell(log, seen, note)
        if deadline.cancelled_caught:
            await self._processes.stop(key, grace_s=5.0)
            raise StartError(
                f"cannot build the environment of {spec.label}: not done after {self._build_timeout_s:.0f} s"
            )
        ended = await self._endings.wait(key)
        await self._processes.forget(key)
        return ended, log

    async def _running(self, spec: EnvironmentSpec) -> str | None:
        prefix = f"{PREFIX}{spec.key}/"
        await self._endings.refresh(prefix)
        return next((key for key in self._endings.keys(prefix) if self._endings.ending(key) is None), None)

    async def _start(self, spec: EnvironmentSpec) -> str:
        key = f"{PREFIX}{spec.key}/{time.time_ns()}"
        self._log(key).parent.mkdir(parents=True, exist_ok=True)
        description = self._describe(spec)
        network = network_environment(os.environ)
        await self._processes.spawn(
            ProcessRequest(
                key=key,
                argv=(
                    *(sys.executable, "-P", "-m", "fusemld.hooks.building", "--spec", str(description)),
                    *("--environments", str(self._folders.environments), "--cache", str(self._folders.cache)),
                ),
                cwd=self._folders.environments,
                log=self._log(key),
                env=tool_environment(os.environ),
                secret_env=network,
                secrets=tuple(sorted(passwords([*network.items(), ("", spec.requirements)]))),
            )
        )
        self._endings.expect(key)
        return key

    def _describe(self, spec: EnvironmentSpec) -> Path:
        """The specification as a file of mode 0600: an index may be named with its password."""
        description = self._folders.environments / f".{spec.key}.json"
        description.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(description, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a path has no descriptor
            file.write(msgspec.json.encode(spec))
        return description

    def _log(self, key: str) -> Path:
        return self._logs / (key.removeprefix(PREFIX).replace("/", "-") + ".log")


def _tell(log: Path, seen: int, note: Note) -> int:
    """Pass on the complete lines after the first `seen` bytes; returns how many bytes were seen now."""
    try:
        with log.open("rb") as file:
            file.seek(seen)
            text = file.read()
    except FileNotFoundError:
        return seen
    complete = text[: text.rfind(b"\n") + 1]
    for line in complete.decode(errors="replace").splitlines():
        note(line)
    return seen + len(complete)


def _reason(spec: EnvironmentSpec, ended: ProcessEnded, log: Path) -> str:
    """The builder's last words, which name the environment; whatever it said where it had none."""
    opening = f"cannot build the environment of {spec.label}"
    _, found, words = ended.tail.rpartition(opening)
    return (
        opening + words.rstrip()
        if found
        else f"{opening}: the builder {in_words(ended)} (see {log})\n{ended.tail}"
    )
