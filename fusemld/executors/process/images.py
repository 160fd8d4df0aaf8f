"""From an image to the command that runs it on this host."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import anyio
import anyio.to_thread
import structlog

from fusemld.executors.process.settings import ProcessExecutorSettings
from fusemld.hooks.building import find_interpreter
from fusemld.hooks.executors import Launch
from fusemld.hooks.manager import repository
from fusemld.hooks.steps import LocalCommand, ProcessRuntime, RuntimeFolders
from fusemld.model.errors import StartError

_log: structlog.stdlib.BoundLogger = structlog.get_logger()

_PYTHON = re.compile(r"(?:docker\.io/|library/|docker\.io/library/)?python:(\d+\.\d+)(?:[.-].*)?")
_HOST = "host"


class Images:
    """Asked in this order: plugins, `python:X.Y`, `host`, the settings."""

    def __init__(
        self,
        runtimes: Mapping[str, ProcessRuntime],
        folders: RuntimeFolders,
        settings: ProcessExecutorSettings,
    ) -> None:
        self._runtimes = runtimes
        self._folders = folders
        self._settings = settings
        self._interpreters: dict[str, Path] = {}
        self._lock = anyio.Lock()

    async def command(self, launch: Launch) -> LocalCommand:
        """What to run: the step's `command` takes the place of the image's entrypoint, `args` follow either.

        Raises `StartError` for an image that nothing on this host stands for, and where no command is given.
        """
        local = await self._local(launch.image)
        entrypoint = launch.command or local.argv or self._settings.default_command
        argv = (*entrypoint, *(launch.args or ()))
        if not argv:
            raise StartError(
                f"cannot run image {launch.image} as a process without a command: "
                "give the step `command` (or set process.default_command)"
            )
        return LocalCommand(argv=argv, env=local.env, path=local.path, folders=local.folders)

    async def _local(self, image: str) -> LocalCommand:
        if runtime := self._runtimes.get(repository(image)):
            return runtime.command(image, self._folders)
        if python := _PYTHON.fullmatch(image):
            return await self._python(python[1])
        if image == _HOST:
            return LocalCommand(argv=())
        for name in (image, repository(image)):
            if name in self._settings.images:
                return LocalCommand(argv=self._settings.images[name])
        raise StartError(
            f"cannot run image {image} as a process: no plugin, `python:X.Y`, `host` or setting process.images "
            "stands for it on this host; the executor kubernetes runs any image"
        )

    async def _python(self, version: str) -> LocalCommand:
        async with self._lock:
            folder = self._interpreters.get(version)
            if folder is None or not (folder / "python").exists():
                folder = self._interpreters[version] = await anyio.to_thread.run_sync(self._provide, version)
        # `pip install` in a step must not change the host: it goes to the attempt's own folder.
        env = {"PIP_USER": "1", "PIP_BREAK_SYSTEM_PACKAGES": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        return LocalCommand(argv=(), env=env, path=(str(folder),), folders=(folder,))

    def _provide(self, version: str) -> Path:
        """A folder with the names under which such images have their interpreter."""

        def note(text: str) -> None:
            _log.info("interpreter.provided", python=version, text=text)

        found = find_interpreter(version, self._folders, note)
        # The daemon's own is in a virtualenv with the daemon's packages.
        interpreter = os.path.realpath(found) if found == sys.executable else found
        folder = self._settings.state / "interpreters" / version
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("python", "python3", f"python{version}"):
            link = folder / f".{name}.new"
            link.unlink(missing_ok=True)
            link.symlink_to(interpreter)
            link.rename(folder / name)
        return folder
