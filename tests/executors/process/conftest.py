"""Real keepers in state folders of their own, and real processes in them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from pathlib import Path

import anyio
import psutil
import pytest

from fusemld.executors.process.client import Keeper
from fusemld.executors.process.wire import keeper_folder
from fusemld.hooks.executors import MountedCodeset
from fusemld.hooks.processes import ProcessEnded, ProcessRequest, ProcessStarted
from fusemld.model.run import AttemptKey
from tests.acceptance.mishaps import few_descriptors
from tests.executors.process.bench import Bench, BenchFactory

Event = ProcessStarted | ProcessEnded
DEADLINE_S = 30.0


class Host:
    """A state folder with a running client: starts commands and waits for what becomes of them."""

    def __init__(self, state: Path, keeper: Keeper) -> None:
        self.state = state
        self.keeper = keeper
        self.events: list[Event] = []
        self._changed = anyio.Event()
        keeper.observe("", self._observe)

    def _observe(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()
        self._changed = anyio.Event()

    def request(self, key: str, *argv: str, **more: object) -> ProcessRequest:
        given = {
            "key": key,
            "argv": argv,
            "cwd": self.state,
            "log": self.log(key),
            "env": {"PATH": os.environ["PATH"]},
        }
        return ProcessRequest(**(given | more))  # type: ignore[arg-type] # tests name the fields

    def log(self, key: str) -> Path:
        return self.state / "logs" / f"{key}.log"

    async def spawn(self, key: str, *argv: str, **more: object) -> None:
        await self.keeper.spawn(self.request(key, *argv, **more))

    async def shell(self, key: str, script: str, **more: object) -> ProcessEnded:
        await self.spawn(key, "sh", "-c", script, **more)
        return await self.end(key)

    async def start(self, key: str) -> ProcessStarted:
        event = await self._wait(key, ProcessStarted)
        assert isinstance(event, ProcessStarted)
        return event

    async def end(self, key: str) -> ProcessEnded:
        event = await self._wait(key, ProcessEnded)
        assert isinstance(event, ProcessEnded)
        return event

    async def _wait(self, key: str, kind: type[Event]) -> Event:
        with anyio.fail_after(DEADLINE_S):
            while True:
                for event in self.events:
                    if event.key == key and isinstance(event, kind):
                        return event
                await self._changed.wait()


HostFactory = Callable[..., contextlib.AbstractAsyncContextManager[Host]]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "state"
    folder.mkdir()
    yield folder
    deadline = time.monotonic() + DEADLINE_S
    while (left := keepers(folder)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        time.sleep(0.005)


@pytest.fixture
def host(state: Path) -> HostFactory:
    @contextlib.asynccontextmanager
    async def running(folder: Path = state, *, shut_down: bool = True, **more: float) -> AsyncIterator[Host]:
        keeper = Keeper(folder, **more)
        opened = Host(folder, keeper)
        async with anyio.create_task_group() as tasks:
            await tasks.start(keeper.run)
            try:
                yield opened
            finally:
                tasks.cancel_scope.cancel()
        if shut_down:
            await keeper.shutdown(0)

    return running


def keepers(state: Path) -> list[int]:
    """The pids of the keepers of the state folder."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes().split(b"\0") if folder.name.isdigit() else []
            if b"fusemld.executors.process.keeper" in command and os.fsencode(state) in command:
                found.append(int(folder.name))
    return found


@pytest.fixture
def keeper_pid() -> Callable[[Path], int]:
    def only(state: Path) -> int:
        (keeper,) = keepers(state)
        return keeper

    return only


@pytest.fixture
def kill_keeper(keeper_pid: Callable[[Path], int]) -> Callable[[Path], None]:
    return lambda state: os.kill(keeper_pid(state), signal.SIGKILL)


@pytest.fixture
def lose_journal(kill_keeper: Callable[[Path], None]) -> Callable[[Path], None]:
    def lose(state: Path) -> None:
        (keeper_folder(state) / "journal").unlink()
        kill_keeper(state)

    return lose


@pytest.fixture
def starved(state: Path) -> Callable[..., contextlib.AbstractContextManager[None]]:
    """The keeper can open nothing more, or only `spare` things, as long as the block lasts."""
    return lambda spare=0: few_descriptors(keepers(state), spare)


@pytest.fixture
def count_keepers() -> Callable[[Path], int]:
    return lambda state: len(keepers(state))


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Waits for something that real processes do, by looking."""

    async def wait(condition: Callable[[], bool]) -> None:
        with anyio.fail_after(DEADLINE_S):
            while not condition():  # noqa: ASYNC110 - nobody can tell
                await anyio.sleep(0.005)

    return wait


@pytest.fixture
def gone(until: Callable[[Callable[[], bool]], Awaitable[None]]) -> Callable[[int], Awaitable[None]]:
    """Waits until a process is not there any more (a zombie is not)."""

    def is_gone(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return lambda pid: until(lambda: is_gone(pid))


@pytest.fixture
def journal() -> Callable[[Path], bytes]:
    return lambda state: (keeper_folder(state) / "journal").read_bytes()


@pytest.fixture
def bench(host: HostFactory, state: Path) -> BenchFactory:
    @contextlib.asynccontextmanager
    async def ready(
        *keys: AttemptKey,
        spared: Collection[str] = (),
        shut_down: bool = True,
        folder: Path = state,
        **more: object,
    ) -> AsyncIterator[Bench]:
        async with host(folder, shut_down=shut_down) as opened, anyio.create_task_group() as tasks:
            made = Bench(folder, opened.keeper, **({"sandbox": "off"} | more))
            await tasks.start(made.executor.run, made.report)
            made.recovered = await made.executor.recover(keys, spared)
            yield made
            tasks.cancel_scope.cancel()

    return ready


@pytest.fixture
def codeset(tmp_path: Path) -> MountedCodeset:
    source = tmp_path / "pinned"
    source.mkdir()
    (source / "train.sh").write_text("echo training\n")
    path = "/project"
    return MountedCodeset(path=path, project="prj", name="code", version="1", digest="d", source=source)
