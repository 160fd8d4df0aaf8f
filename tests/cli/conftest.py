"""The command line as a process, against a real server over the in-memory stand-in for the daemon."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from fusemld.api.server import serve
from tests.api.memory import MemoryOperations

Cli = Callable[..., subprocess.CompletedProcess[str]]

BIN = Path(sys.executable).parent


@pytest.fixture
def operations() -> MemoryOperations:
    return MemoryOperations()


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal("asyncio") as portal:
        yield portal


@pytest.fixture
def socket_path(operations: MemoryOperations, portal: BlockingPortal) -> Iterator[Path]:
    with TemporaryDirectory(prefix="fml-") as folder:
        path = Path(folder) / "fusemld.sock"
        future, _ = portal.start_task(serve, operations, path)
        yield path
        future.cancel()


@pytest.fixture
def environment(socket_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FUSEMLD_", "_FUSEML"))}
    return kept | {"FUSEMLD_SOCKET": str(socket_path), "TZ": "UTC"}


@pytest.fixture
def fuseml(environment: dict[str, str]) -> Cli:
    """Runs `fuseml` and returns what it printed, and how it ended."""

    def run(*args: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "fuseml"), *args]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=60, env=environment | env, check=False
        )

    return run
