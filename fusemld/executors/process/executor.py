"""The executor that runs attempts as processes of this host, through the keeper."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Collection, Mapping, Sequence, Set
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
import structlog
from anyio.abc import TaskStatus
from msgspec.structs import replace

from fusemld.executors import durable_files
from fusemld.executors.log_files import STEP_LIMIT_SETTING
from fusemld.executors.outputs import ALL_OUTPUTS_LIMIT_BYTES, OUTPUT_LIMIT_BYTES
from fusemld.executors.process.folders import (
    AttemptFolder,
    AttemptNote,
    attempt_folder,
    remove_all,
    remove_all_but,
)
from fusemld.executors.process.images import Images
from fusemld.executors.process.journal import is_another
from fusemld.executors.process.left_outputs import Judged, LeftOutputs
from fusemld.executors.process.outcomes import MemoryPressure, diagnose, oom_kills
from fusemld.executors.process.recovery import HOST_WENT_DOWN, JOURNAL_LOST
from fusemld.executors.process.sandbox import RESULTS, find_bwrap, view
from fusemld.executors.process.settings import ProcessExecutorSettings
from fusemld.executors.process.spawning import boot_id
from fusemld.hooks.building import passwords
from fusemld.hooks.executors import PROCESS, AttemptFinished, AttemptStarted, Condition, Launch, Report
from fusemld.hooks.processes import ProcessEnded, Processes, ProcessRequest, ProcessStarted
from fusemld.hooks.steps import LocalCommand, ProcessRuntime, RuntimeFolders
from fusemld.model import faults
from fusemld.model.errors import StartError, UnavailableError, may_pass
from fusemld.model.run import LONG_OUTPUTS, AttemptKey, Ending, Outcome

_log: structlog.stdlib.BoundLogger = structlog.get_logger()

_PREFIX = "step/"
_LONGEST_VARIABLE_BYTES = 128 * 1024 - 1
"""`NAME=value` of one variable, a limit of Linux (MAX_ARG_STRLEN)."""
_SURELY_SHORT_ENOUGH = _LONGEST_VARIABLE_BYTES // 4
"""Characters of a variable: each is at most four bytes."""
_UNWANTED_GRACE_S = 10.0
_REMOVE_AGAIN_S = 1.0
_SPARES = 64
_SPARE_S = 0.5


class _Boot(msgspec.Struct, frozen=True):
    """`lost` are attempts that were running when the host went down, or when the `journal` of the keeper was lost,
    of which the keeper knows nothing: its journal is not synced. They must never be launched again. Nor may those
    of `lost_runs`, whichever they are: nobody could tell. `why` is what happened."""

    boot: str
    lost: frozenset[str] = frozenset()
    lost_runs: frozenset[str] = frozenset()
    journal: str = ""
    why: str = HOST_WENT_DOWN


class _Attempt(msgspec.Struct, kw_only=True):
    """What is in memory of an attempt; of one that was adopted after a restart, less."""

    oom_kills: int | None = None
    note: AttemptNote | None = None
    spawned: bool = False
    started: bool = False
    finished: bool = False
    is_read: bool = False
    """Its outputs are, or will be: it has ended."""
    unwanted: bool = False
    """Nobody waits for its end: it is forgotten then."""


class ProcessExecutor:
    """An `Executor`. `processes` must be running before `recover` is called."""

    name = PROCESS

    def __init__(
        self,
        processes: Processes,
        runtimes: Mapping[str, ProcessRuntime],
        folders: RuntimeFolders,
        settings: ProcessExecutorSettings,
    ) -> None:
        self.zone = settings.zone
        self._processes = processes
        self._settings = settings
        self._images = Images(runtimes, folders, settings)
        self._attempts: dict[AttemptKey, _Attempt] = {}
        self._stopped: set[AttemptKey] = set()
        """Told to stop before the keeper knew them."""
        self._ended_meanwhile: dict[AttemptKey, ProcessEnded] | None = None
        """What ends while `recover` finds out what there is."""
        self._report: Report | None = None
        self._boot = _Boot("")
        self._remembering = anyio.Lock()
        self._bwrap: str | None = None
        self._home = Path(os.environ.get("HOME") or "/")
        self._base_env = _base_environment(self._home, settings.pass_env)
        self._passwords = passwords(self._base_env.items())
        self._memory = MemoryPressure()
        self._left = LeftOutputs(settings.state)
        self._leftovers: dict[AttemptKey, bool] = {}
        """What is to be forgotten, and whether the keeper knows it."""
        self._has_leftovers = anyio.Event()
        self._spares: list[AttemptKey] = []
        """Forgotten ones whose folders are as they were made, for others to come: to make and to remove one costs
        as much as everything else about a short step. Nobody's for a while, they are removed."""
        self._spares_used = False
        self._tidying: asyncio.TimerHandle | None = None
        processes.observe(_PREFIX, self._observe)

    @property
    def _boot_file(self) -> Path:
        return self._settings.state / "attempts" / "boot.json"

    async def run(self, report: Report, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Raises `StartError` where the settings demand a sandbox that cannot be had."""
        self._report = report
        if self._settings.sandbox != "off":
            self._bwrap = await anyio.to_thread.run_sync(find_bwrap, self._settings.sandbox == "bwrap")
        _log.info("executor.ready", executor=self.name, sandbox=self._bwrap or "none")
        task_status.started()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._left.run, name="outputs of processes")
                await self._remove_leftovers()
        finally:
            if self._tidying is not None:
                self._tidying.cancel()
            for key in self._spares:
                attempt_folder(self._settings.state, key).remove_if_empty()

    async def _remove_leftovers(self) -> None:
        while True:
            await self._has_leftovers.wait()
            self._has_leftovers = anyio.Event()
            going, self._leftovers = self._leftovers, {}
            stay = await anyio.to_thread.run_sync(remove_all, self._settings.state, tuple(going))
            for key, is_known in going.items():
                if key in stay:
                    _log.warning("attempt.not_removed", key=str(key), error=str(stay[key]))
                    self._abandon(key, is_known=is_known)
                else:
                    await self._forget_removed(key, is_known=is_known)
            if stay:
                await anyio.sleep(_REMOVE_AGAIN_S)

    async def launch(self, launch: Launch) -> None:
        await self._remember_journal()
        known = self._attempts.get(launch.key)
        attempt = known or _Attempt()
        self._attempts[launch.key] = attempt
        if (launch.recovered or known is not None) and await self._is_known(launch.key):
            return
        try:
            if not self._is_over(launch.key, attempt):
                request, attempt.note = await self._prepare(launch)
            if self._is_over(launch.key, attempt):
                if launch.key not in self._attempts:
                    self._abandon(launch.key, is_known=False)
                return
            attempt.oom_kills = self._memory.kills()
            faults.point("executor.prepared")
            await self._processes.spawn(request)
            faults.point("executor.spawned")
        except StartError:
            self._attempts.pop(launch.key, None)
            await anyio.to_thread.run_sync(remove_all, self._settings.state, (launch.key,))
            raise
        attempt.spawned = True
        if launch.key in self._stopped:
            await self._processes.stop(_name(launch.key), 0)

    def _is_over(self, key: AttemptKey, attempt: _Attempt) -> bool:
        """Whether it has ended before it was started. To be told to stop is its end; so is that a keeper lost its
        journal which, for all that an earlier try could tell, had it."""
        if key in self._stopped:
            outcome = Outcome(ending=Ending.CANCELLED, message="it was told to stop before it was started")
            self._finish(key, attempt, time.time(), outcome, {})
        return attempt.finished

    async def recover(self, keys: Sequence[AttemptKey], spared: Collection[str] = ()) -> frozenset[AttemptKey]:
        wanted = frozenset(keys)
        self._ended_meanwhile = {}
        found = {_key(event.key): event for event in await self._processes.known(_PREFIX)}
        lost, why = await anyio.to_thread.run_sync(self._lost_meanwhile, wanted - found.keys(), spared)
        found |= self._ended_meanwhile
        self._ended_meanwhile = None
        kept = wanted | {key for key in found if key.run in spared}
        # Known all at once: from here on `_observe` takes what comes.
        for key in found:
            attempt = self._attempts.setdefault(key, _Attempt())
            attempt.spawned = True
            attempt.unwanted = key not in kept
            # Now, where it can be read: its end may come when there are no descriptors.
            attempt.note = attempt_folder(self._settings.state, key).note()
        for key, event in found.items():
            if key in kept or isinstance(event, ProcessEnded):
                self._observe(event)
            else:
                await self._processes.stop(_name(key), _UNWANTED_GRACE_S)
        for key in lost:
            outcome = Outcome(ending=Ending.LOST, message=why)
            self._finish(key, self._attempts.setdefault(key, _Attempt()), time.time(), outcome, {})
        # One that was told to stop before the keeper knew it leaves its folder if the daemon is killed then.
        await anyio.to_thread.run_sync(remove_all_but, self._settings.state, wanted | found.keys(), spared)
        return (wanted & found.keys()) | lost

    async def kill(self, key: AttemptKey, grace_s: float) -> None:
        attempt = self._attempts.get(key)
        if attempt is not None and not attempt.spawned:
            self._stopped.add(key)
        await self._processes.stop(_name(key), grace_s)

    async def unknown(self, keys: Sequence[AttemptKey]) -> frozenset[AttemptKey]:
        """The keeper forgets nothing by itself, but its journal may be damaged; one that is lost is noticed."""
        kept = {_key(event.key) for event in await self._processes.known(_PREFIX)}
        return frozenset(key for key in keys if not self._will_end(key, kept))

    def _will_end(self, key: AttemptKey, kept: Set[AttemptKey]) -> bool:
        """Or has ended: what was reported is not reported again."""
        attempt = self._attempts.get(key)
        return attempt is not None and (attempt.finished or attempt.is_read or key in kept)

    async def forget(self, key: AttemptKey) -> None:
        self._stopped.discard(key)
        is_known = self._attempts.pop(key, None) is not None
        folder = attempt_folder(self._settings.state, key)
        if len(self._spares) < _SPARES and folder.is_as_made():
            self._spares.append(key)
            self._tidy_later()
            await self._forget_removed(key, is_known=is_known)
        elif folder.remove_if_empty():
            await self._forget_removed(key, is_known=is_known)
        else:
            self._abandon(key, is_known=is_known)

    def _tidy_later(self) -> None:
        if self._tidying is None:
            self._tidying = asyncio.get_running_loop().call_later(_SPARE_S, self._tidy)

    def _tidy(self) -> None:
        self._tidying = None
        if self._spares_used:
            self._spares_used = False
            self._tidy_later()
            return
        for key in self._spares:
            self._abandon(key, is_known=False)
        self._spares.clear()

    async def _forget_removed(self, key: AttemptKey, *, is_known: bool) -> None:
        """In this order: what the keeper still knows, the next daemon forgets."""
        faults.point("executor.removed")
        if is_known:
            await self._processes.forget(_name(key))

    def condition(self) -> Condition:
        return Condition(ok=True)

    def log_path(self, key: AttemptKey) -> Path:
        return Path(self._log_path(key))

    def _log_path(self, key: AttemptKey) -> str:
        return f"{self._settings.state}/logs/{key.run}/{key.step}.{key.attempt}.log"

    def _abandon(self, key: AttemptKey, *, is_known: bool = True) -> None:
        self._leftovers[key] = is_known or self._leftovers.get(key, False)
        self._has_leftovers.set()

    def _lost_meanwhile(
        self, unknown: frozenset[AttemptKey], spared: Collection[str]
    ) -> tuple[frozenset[AttemptKey], str]:
        """Of attempts that the keeper does not know, those that may have run before the host went down or the
        keeper lost its journal, and which of both it was. The host or `processes` has ended them.

        Without either the keeper knows whatever was started, so the others were not. For those of spared
        runs the question comes later, and from another daemon: it is answered the same.
        """
        before = _read_boot(self._boot_file)
        now = _Boot(boot=boot_id(), journal=self._processes.journal)
        lost = {str(key) for key in unknown}
        if before is None:
            lost = set()
        elif before.boot != now.boot:
            now = replace(now, lost=frozenset(lost), lost_runs=frozenset(spared))
        elif is_another(now.journal, before.journal):
            now = replace(now, lost=frozenset(lost), lost_runs=frozenset(spared), why=JOURNAL_LOST)
        else:
            lost = {str(key) for key in unknown if str(key) in before.lost or key.run in before.lost_runs}
            now = replace(before, journal=now.journal or before.journal)
        if now != before:
            durable_files.write(self._boot_file, msgspec.json.encode(now))
            faults.point("executor.booted")
        self._boot = now
        return frozenset(key for key in unknown if str(key) in lost), now.why

    async def _remember_journal(self) -> None:
        """Before an attempt is in it. Where it is another one, those whose ends are not recorded yet may have been
        in the one before. Raises OSError."""
        if self._processes.journal == self._boot.journal:
            return
        async with self._remembering:
            now = replace(self._boot, journal=self._processes.journal or self._boot.journal)
            if is_another(now.journal, self._boot.journal):
                now = replace(now, lost=self._boot.lost.union(map(str, self._attempts)), why=JOURNAL_LOST)
            if now != self._boot:
                await anyio.to_thread.run_sync(durable_files.write, self._boot_file, msgspec.json.encode(now))
                self._boot = now

    # Starting

    async def _is_known(self, key: AttemptKey) -> bool:
        """The keeper has it already: its folder must be left alone. What it knows is reported again."""
        for event in await self._processes.known(_name(key)):
            if event.key == _name(key):
                self._attempts[key].spawned = True
                self._observe(event)
                return True
        return False

    async def _prepare(self, launch: Launch) -> tuple[ProcessRequest, AttemptNote]:
        """Raises `StartError`, and `UnavailableError` for what may pass; nothing was started then."""
        local = await self._images.command(launch)
        folder = attempt_folder(self._settings.state, launch.key)
        has_outputs = bool(launch.outputs)
        is_sandboxed = self._bwrap is not None and (
            self._settings.sandbox == "bwrap" or bool(launch.codesets or has_outputs or launch.secret_env)
        )
        note = AttemptNote(outputs=launch.outputs, is_sandboxed=is_sandboxed)
        try:
            if launch.codesets:
                await anyio.to_thread.run_sync(folder.prepare, launch.codesets, has_outputs)
            elif has_outputs or not self._takes_a_spare(folder):
                folder.prepare((), has_outputs)
            if is_sandboxed or has_outputs:
                folder.remember(note)
        except OSError as error:
            problem = f"cannot prepare the folder of {launch.key}: {error}"
            raise (UnavailableError(problem) if may_pass(error) else StartError(problem)) from error
        codesets = [
            str(Path(codeset.path) if is_sandboxed else folder.codeset(index))
            for index, codeset in enumerate(launch.codesets)
        ]
        cwd = codesets[0] if codesets else folder.path
        results = str(RESULTS) if is_sandboxed else folder.results_path
        env = self._environment(launch, local, folder, codesets, results)
        argv = self._sandboxed(launch, local, folder, cwd) if is_sandboxed else local.argv
        request = ProcessRequest(
            key=_name(launch.key),
            argv=argv,
            cwd=folder.path if is_sandboxed else cwd,
            log=self._log_path(launch.key),
            env=env,
            secret_env=launch.secret_env,
            secrets=tuple(sorted(launch.secrets | self._passwords | passwords(local.env.items()))),
            log_limit_bytes=self._settings.log_limit_bytes,
            log_limit_setting=STEP_LIMIT_SETTING,
            process_limit=self._settings.process_limit,
            results=folder.results if has_outputs else None,
            outputs=launch.outputs,
            output_limit_bytes=OUTPUT_LIMIT_BYTES,
            all_outputs_limit_bytes=ALL_OUTPUTS_LIMIT_BYTES,
            told_outputs_bytes=LONG_OUTPUTS,
        )
        return request, note

    def _takes_a_spare(self, folder: AttemptFolder) -> bool:
        if not self._spares:
            return False
        key = self._spares.pop()
        self._spares_used = True
        if folder.become(attempt_folder(self._settings.state, key)):
            return True
        self._abandon(key, is_known=False)
        return False

    def _environment(
        self, launch: Launch, local: LocalCommand, folder: AttemptFolder, codesets: list[str], results: str
    ) -> dict[str, str]:
        """Never the daemon's own environment: what every program needs, the passed on, and the step's."""
        tmp = folder.path
        env = {**self._base_env, "TMPDIR": tmp, "PYTHONUSERBASE": f"{tmp}/python"}
        env.update(local.env)
        env["FUSEML_RESULTS_DIR"] = results
        if codesets:
            env["FUSEML_CODESET_DIR"] = codesets[0]
        env.update(launch.env)
        env["PATH"] = os.pathsep.join((*local.path, f"{tmp}/python/bin", env["PATH"]))
        for name, value in (*env.items(), *launch.secret_env.items()):
            if len(name) + len(value) < _SURELY_SHORT_ENOUGH:
                continue
            size = len(os.fsencode(name)) + 1 + len(os.fsencode(value))
            if size > _LONGEST_VARIABLE_BYTES:
                raise StartError(
                    f"cannot start {launch.key}: variable {name} has {size} bytes, and this system takes at most "
                    f"{_LONGEST_VARIABLE_BYTES} in one; hand such a value over in a codeset or an object store"
                )
        return env

    def _sandboxed(self, launch: Launch, local: LocalCommand, folder: AttemptFolder, cwd: str) -> tuple[str, ...]:
        assert self._bwrap is not None
        places = {Path(codeset.path): folder.codeset(index) for index, codeset in enumerate(launch.codesets)}
        if launch.outputs:
            places[RESULTS] = folder.results
        arguments = view(
            places=places,
            reachable=(*local.folders, folder.tmp),
            hidden=self._settings.hidden,
            state=self._settings.state,
            home=self._home,
        )
        return (self._bwrap, *arguments, "--chdir", cwd, "--", *local.argv)

    # Ending

    def _observe(self, event: ProcessStarted | ProcessEnded) -> None:
        """Of attempts that nobody asked for yet (before `recover`) nothing is reported."""
        key = _key(event.key)
        attempt = self._attempts.get(key)
        if attempt is None and self._ended_meanwhile is not None and isinstance(event, ProcessEnded):
            self._ended_meanwhile[key] = event
        if attempt is None or self._report is None:
            return
        match event:
            case ProcessStarted():
                self._start(key, attempt, event.at)
            case ProcessEnded() if attempt.unwanted:
                del self._attempts[key]
                self._abandon(key)
            case ProcessEnded(exit_status=0) if event.left_outputs:
                if not attempt.is_read:
                    attempt.is_read = True
                    judge, finish = (
                        partial(self._judge, key, attempt),
                        partial(self._finish, key, attempt, event.at),
                    )
                    self._left.add(key, event, judge, finish)
            case ProcessEnded():
                self._finish(key, attempt, event.at, *self._judge(key, attempt, event))

    def _judge(self, key: AttemptKey, attempt: _Attempt, event: ProcessEnded) -> Judged:
        folder = attempt_folder(self._settings.state, key)
        note = attempt.note or folder.note()
        return diagnose(
            event,
            note.outputs,
            RESULTS if note.is_sandboxed or not note.outputs else folder.results,
            is_sandboxed=note.is_sandboxed,
            is_short_of_memory=event.exit_status != 0
            and attempt.oom_kills is not None
            and oom_kills() > attempt.oom_kills,
        )

    def _start(self, key: AttemptKey, attempt: _Attempt, at: float) -> None:
        if not attempt.started and not attempt.finished and self._report is not None:
            attempt.started = True
            self._report(AttemptStarted(key=key, at=at))

    def _finish(
        self, key: AttemptKey, attempt: _Attempt, at: float, outcome: Outcome, outputs: Mapping[str, str]
    ) -> None:
        if not attempt.finished and self._report is not None:
            attempt.finished = True
            self._report(AttemptFinished(key=key, at=at, outcome=outcome, outputs=outputs))


def _name(key: AttemptKey) -> str:
    return f"{_PREFIX}{key}"


def _key(name: str) -> AttemptKey:
    run, step, attempt = name.removeprefix(_PREFIX).split("/")
    return AttemptKey(run, step, int(attempt))


def _base_environment(home: Path, passed_on: Sequence[str]) -> dict[str, str]:
    """What every program of this host needs, and what the settings say."""
    env = {"PATH": _host_path(), "HOME": str(home), "LANG": os.environ.get("LANG", "C.UTF-8")}
    return env | {name: os.environ[name] for name in passed_on if name in os.environ}


def _host_path() -> str:
    """The daemon's search path without its own virtualenv: `python` in a step is not the daemon's."""
    own = str(Path(sys.prefix, "bin")) if sys.prefix != sys.base_prefix else None
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(folder for folder in folders if folder and folder != own)


def _read_boot(path: Path) -> _Boot | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Boot)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
