"""A supervisor over a real keeper, and a kind of service that is a small real HTTP server."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest

from fusemld.executors.process.client import Keeper
from fusemld.hooks.environments import EnvironmentSpec
from fusemld.hooks.processes import Processes
from fusemld.hooks.services import HttpProbe, ServiceContext, ServiceKind, ServicePlan
from fusemld.hooks.steps import RuntimeFolders
from fusemld.model.service import ServiceRecord
from fusemld.services.backoff import Backoff
from fusemld.services.environments import KeeperEnvironments
from fusemld.services.persistence import ServicePersistence
from fusemld.services.supervisor import ServiceSupervisor

SERVER = Path(__file__).parent / "server.py"
DEADLINE_S = 20.0
QUICK = Backoff(initial_s=0.05, maximum_s=0.5)

OpenSupervisor = Callable[..., AbstractAsyncContextManager[ServiceSupervisor]]
Wrap = Callable[[Processes, ServicePersistence], tuple[Processes, ServicePersistence]]


class Records:
    """A store in memory that keeps what was saved, as a database would."""

    def __init__(self) -> None:
        self.saved: dict[str, ServiceRecord] = {}

    async def load(self) -> Sequence[ServiceRecord]:
        return tuple(self.saved.values())

    async def save(self, record: ServiceRecord) -> None:
        self.saved[record.name] = record

    async def delete(self, name: str) -> None:
        self.saved.pop(name, None)


class TextServer:
    """Parameters: `text` is what it answers, `fail` how its start goes wrong (`exit`, `silent`)."""

    description = "answers a text"

    def __init__(
        self, kind: str, *, inherit: bool, requires: tuple[str, ...] = (), credentials: tuple[str, ...] = ()
    ) -> None:
        self.kind = kind
        self.requires = requires
        self.credentials = credentials
        self._inherit = inherit

    def environment(self, parameters: Mapping[str, str]) -> EnvironmentSpec | None:
        return None

    def plan(self, context: ServiceContext) -> ServicePlan:
        parameters = context.parameters
        return ServicePlan(
            argv=(
                *(sys.executable, str(SERVER), "--text", parameters.get("text", "hello")),
                *("--port", str(context.address.port), "--private-port", str(context.private_port)),
                *(("--inherit",) if self._inherit else ()),
                *(("--fail", parameters["fail"]) if "fail" in parameters else ()),
            ),
            env={f"PEER_{name.upper()}": peer.url for name, peer in context.peers.items()},
            secret_env={f"SECRET_{name.upper()}": value for name, value in context.address.credentials.items()},
            probe=HttpProbe(path="/ready", private=self._inherit),
            inherit_socket=self._inherit,
            start_timeout_s=2.0 if parameters.get("fail") == "silent" else 15.0,
            grace_s=5.0,
        )


KINDS: tuple[ServiceKind, ...] = (
    TextServer("plain", inherit=False, credentials=("access_key", "secret_key")),
    TextServer("shared", inherit=True),
    TextServer("dependent", inherit=False, requires=("plain",)),
)


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def open_supervisor(records: Records, state: Path) -> OpenSupervisor:
    """Each call is one life of the daemon: what it leaves running is there for the next. `wrap` may come
    between the supervisor and what it does to the world."""

    @contextlib.asynccontextmanager
    async def open_(
        wrap: Wrap = lambda *world: world, backoff: Backoff = QUICK, kinds: Sequence[ServiceKind] = KINDS
    ) -> AsyncIterator[ServiceSupervisor]:
        keeper = Keeper(state, idle_s=1.0)
        processes, persistence = wrap(keeper, records)
        folders = RuntimeFolders(environments=state / "environments", cache=state / "cache")
        supervisor = ServiceSupervisor(
            processes,
            KeeperEnvironments(keeper, folders, state / "logs" / "environments"),
            {kind.kind: kind for kind in kinds},
            state,
            persistence,
            backoff=backoff,
        )
        async with anyio.create_task_group() as tasks:
            await tasks.start(lambda *, task_status: keeper.run(task_status=task_status))
            await tasks.start(lambda *, task_status: supervisor.run(task_status=task_status))
            try:
                yield supervisor
            finally:
                tasks.cancel_scope.cancel()

    return open_


@pytest.fixture(autouse=True)
async def _nothing_left(state: Path) -> AsyncIterator[None]:
    yield
    await Keeper(state).shutdown(grace_s=1.0)


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool], str], object]:
    """Waits until a condition on real processes holds."""

    async def wait(condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, f"did not come to pass: {what}"
            await anyio.sleep(0.02)

    return wait
