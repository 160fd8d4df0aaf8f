"""What tests ask services for, and how they see what came of it."""

from __future__ import annotations

import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from anyio import to_thread

from fusemld.hooks.services import ServiceRequest
from fusemld.model.service import ServiceState
from fusemld.services.supervisor import ServiceSupervisor

Open = Callable[..., AbstractAsyncContextManager[ServiceSupervisor]]
Eventually = Callable[[Callable[[], bool], str], Awaitable[None]]

PLAIN = ServiceRequest(name="plain", kind="plain")
SHARED = ServiceRequest(name="model", kind="shared", parameters={"text": "old"})
UPDATED = ServiceRequest(name="model", kind="shared", parameters={"text": "new"})
BROKEN = ServiceRequest(name="model", kind="shared", parameters={"text": "new", "fail": "exit"})


def silent(_: str) -> None:
    pass


async def fetch(url: str) -> str:
    def get() -> str:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())

    return await to_thread.run_sync(get)


def state_of(supervisor: ServiceSupervisor, name: str) -> ServiceState:
    return next(state for state in supervisor.states() if state.name == name)


def is_gone(pid: int | None) -> bool:
    assert pid is not None
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # also between opening and reading
        return True
