"""An executor of processes for tests, and short ways to ask it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import anyio

from fusemld.executors.process.executor import ProcessExecutor
from fusemld.executors.process.settings import ProcessExecutorSettings
from fusemld.hooks.executors import AttemptFinished, AttemptStarted, Launch
from fusemld.hooks.processes import Processes
from fusemld.hooks.steps import LocalCommand, RuntimeFolders, StepInputs
from fusemld.model.errors import StartError
from fusemld.model.run import AttemptKey


class Bench:
    """An executor that is ready, and what it reported."""

    def __init__(self, state: Path, processes: Processes, **more: object) -> None:
        self.state = state
        self.recovered: frozenset[AttemptKey] = frozenset()
        folders = RuntimeFolders(environments=state / "python" / "environments", cache=state / "python" / "cache")
        settings = ProcessExecutorSettings(state=state, **more)  # type: ignore[arg-type] # tests name the fields
        self.executor = ProcessExecutor(processes, {"ghcr.io/x/echo": Echo()}, folders, settings)
        self.reports: list[AttemptStarted | AttemptFinished] = []
        self._changed = anyio.Event()

    def report(self, report: AttemptStarted | AttemptFinished) -> None:
        self.reports.append(report)
        self._changed.set()
        self._changed = anyio.Event()

    async def finished(self, key: AttemptKey) -> AttemptFinished:
        with anyio.fail_after(30):
            while True:
                for report in self.reports:
                    if report.key == key and isinstance(report, AttemptFinished):
                        return report
                await self._changed.wait()

    async def shell(self, script: str, *, step: str = "step", **more: object) -> AttemptFinished:
        launch = shell(script, step=step, **more)
        await self.executor.launch(launch)
        return await self.finished(launch.key)

    def log(self, step: str = "step") -> str:
        return self.executor.log_path(key(step)).read_text()


class Echo:
    """The runtime of a plugin."""

    repositories: tuple[str, ...] = ("ghcr.io/x/echo",)
    inputs = StepInputs()

    def command(self, image: str, folders: RuntimeFolders) -> LocalCommand:
        if image.endswith(":gone"):
            raise StartError(f"cannot run {image}: build it again")
        (folders.environments / "e" / "bin").mkdir(parents=True, exist_ok=True)
        program = folders.environments / "e" / "bin" / "entry"
        program.write_text('#!/bin/sh\necho "$GREETING $*"\n')
        program.chmod(0o755)
        env = {"GREETING": "hello from the image"}
        return LocalCommand(argv=("entry",), env=env, path=(str(program.parent),), folders=(folders.environments,))


def key(step: str = "step", attempt: int = 1) -> AttemptKey:
    return AttemptKey("run-1", step, attempt)


def shell(script: str, *, step: str = "step", **more: object) -> Launch:
    given = {"key": key(step), "image": "host", "command": ("sh", "-c", script)}
    return Launch(**(given | more))  # type: ignore[arg-type] # tests name the fields


BenchFactory = Callable[..., contextlib.AbstractAsyncContextManager[Bench]]
