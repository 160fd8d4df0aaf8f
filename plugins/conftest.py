"""Real services for the tests of plugins: environments built once per session, servers that end with their test.

`FUSEMLD_TEST_CACHE` names a folder that keeps uv's cache between sessions.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from fusemld.hooks.building import build_environment
from fusemld.hooks.services import HttpProbe, ServiceAddress, ServiceContext, ServiceKind
from fusemld.hooks.steps import RuntimeFolders

StartService = Callable[..., ServiceAddress]


def note(text: str) -> None:
    sys.stdout.write(f"{text}\n")


@pytest.fixture(scope="session")
def runtime_folders(tmp_path_factory: pytest.TempPathFactory) -> RuntimeFolders:
    base = tmp_path_factory.mktemp("runtime")
    cache = Path(os.environ.get("FUSEMLD_TEST_CACHE") or base / "cache")
    return RuntimeFolders(environments=base / "environments", cache=cache)


@pytest.fixture(scope="session")
def step_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The minimal environment that services and steps get."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(tmp_path_factory.mktemp("home")),
        "LANG": "C.UTF-8",
    }


@pytest.fixture(scope="session")
def start_service(
    runtime_folders: RuntimeFolders,
    step_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[StartService]:
    """`start(kind, credentials, peers)` starts a service as the daemon does and returns when it is ready."""
    groups: list[subprocess.Popen[bytes]] = []

    def start(
        kind: ServiceKind, credentials: Mapping[str, str] = {}, peers: Mapping[str, ServiceAddress] = {}
    ) -> ServiceAddress:
        spec = kind.environment({})
        environment = None if spec is None else build_environment(spec, runtime_folders, note)
        folder = tmp_path_factory.mktemp(kind.kind)
        address = ServiceAddress(
            name=kind.kind, host="127.0.0.1", port=_free_port(), folder=folder, credentials=credentials
        )
        context = ServiceContext(
            address=address, private_port=_free_port(), parameters={}, peers=peers, environment=environment
        )
        plan = kind.plan(context)
        log = folder / "service.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                plan.argv,
                cwd=folder,
                env={**step_environment, **plan.env, **plan.secret_env},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        groups.append(process)
        deadline = time.monotonic() + plan.start_timeout_s
        while not _is_ready(address, plan.probe):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        return address

    yield start
    for process in reversed(groups):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def _is_ready(address: ServiceAddress, probe: HttpProbe) -> bool:
    try:
        urllib.request.urlopen(address.url + probe.path, timeout=2).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        with error:
            return error.code in probe.accept
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
