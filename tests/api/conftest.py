"""A real server on a real Unix socket, over the in-memory stand-in for the daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from fusemld.api.client import Client
from fusemld.api.server import serve
from fusemld.daemon.event_loop import EventLoop
from tests.api.memory import MemoryOperations


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """A folder with a path that is short enough for a socket."""
    with TemporaryDirectory(prefix="fml-") as folder:
        yield Path(folder)


@pytest.fixture
def operations() -> MemoryOperations:
    return MemoryOperations()


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    """An event loop in a thread, for servers and for what is to happen while a client waits."""
    with start_blocking_portal("asyncio", {"loop_factory": EventLoop}) as portal:
        yield portal


@pytest.fixture
def socket_path(socket_folder: Path, operations: MemoryOperations, portal: BlockingPortal) -> Iterator[Path]:
    """The socket of a server that is ready."""
    path = socket_folder / "api" / "fusemld.sock"
    future, _ = portal.start_task(serve, operations, path)
    yield path
    future.cancel()


@pytest.fixture
def client(socket_path: Path) -> Client:
    return Client(socket_path)
