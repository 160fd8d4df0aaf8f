"""One start of a service: what its kind wants, the process, and waiting until it is ready."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import anyio
import msgspec

from fusemld.hooks.environments import Environments, Note
from fusemld.hooks.processes import Listener, Processes, ProcessRequest
from fusemld.hooks.services import HttpProbe, ServiceAddress, ServiceContext, ServiceKind, ServicePlan
from fusemld.model.errors import FusemldError, StartError
from fusemld.services.endings import Endings, in_words
from fusemld.services.ports import choose_port, is_free
from fusemld.services.probing import is_ready
from fusemld.services.surroundings import minimal_environment

PREFIX = "service/"
_FIRST_LOOK_S = 0.05
_LONGEST_LOOK_S = 0.5
_NOTE_EVERY_S = 5.0
_TAIL_LINES = 20
_TAIL_BYTES = 16 * 1024


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """What every service needs of the daemon. `logs` holds a folder per service."""

    processes: Processes
    environments: Environments
    endings: Endings
    kinds: Mapping[str, ServiceKind]
    logs: Path


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """A start that is planned: `context` is what the plan was made for."""

    kind: str
    context: ServiceContext
    plan: ServicePlan


def key_of(name: str, number: int) -> str:
    return f"{PREFIX}{name}/{number}"


def log_of(tools: Tools, name: str, number: int) -> Path:
    return tools.logs / name / f"{number}.log"


def kind_of(tools: Tools, kind: str) -> ServiceKind:
    if (found := tools.kinds.get(kind)) is None:
        raise StartError(f"cannot start a service of kind {kind}: no installed plugin brings it")
    return found


async def plan(
    tools: Tools,
    kind: str,
    address: ServiceAddress,
    parameters: Mapping[str, str],
    peers: Mapping[str, ServiceAddress],
    note: Note,
) -> Start:
    """Have the environment built and ask the kind how it starts. Raises `StartError`."""
    found = kind_of(tools, kind)
    try:
        spec = found.environment(parameters)
    except FusemldError:
        raise
    except Exception as error:  # a plugin's bug concerns its services only
        raise StartError(f"cannot plan service {address.name}: {type(error).__name__}: {error}") from error
    environment = await tools.environments.ensure(spec, note) if spec is not None else None
    context = ServiceContext(
        address=address,
        private_port=choose_port({address.port}),
        parameters=parameters,
        peers=peers,
        environment=environment,
    )
    try:
        return Start(kind=kind, context=context, plan=found.plan(context))
    except FusemldError:
        raise
    except Exception as error:  # as above
        raise StartError(f"cannot plan service {address.name}: {type(error).__name__}: {error}") from error


async def spawn(tools: Tools, start: Start, number: int) -> None:
    """Start the process. Raises `StartError` where its port is not to be had."""
    address = start.context.address
    if not start.plan.inherit_socket and not is_free(address.host, address.port):
        raise StartError(
            f"cannot start service {address.name}: its port {address.port} on {address.host} is used by another "
            f"program, which has to end: a service keeps its address (ss -ltnp sport = :{address.port})"
        )
    log = log_of(tools, address.name, number)
    log.parent.mkdir(parents=True, exist_ok=True)
    (address.folder / "tmp").mkdir(parents=True, exist_ok=True)
    secrets = {*start.plan.secret_env.values(), *address.credentials.values()}
    key = key_of(address.name, number)
    await tools.processes.spawn(
        ProcessRequest(
            key=key,
            argv=start.plan.argv,
            cwd=address.folder,
            log=log,
            env={**minimal_environment(address.folder), **start.plan.env},
            secret_env=start.plan.secret_env,
            secrets=tuple(sorted(secrets - {""})),
            listener=_listener(address) if start.plan.inherit_socket else None,
        )
    )
    tools.endings.expect(key)


def listener_name(name: str) -> str:
    return f"{PREFIX}{name}"


def _listener(address: ServiceAddress) -> Listener:
    return Listener(name=listener_name(address.name), host=address.host, port=address.port)


async def wait_until_ready(
    tools: Tools, start: Start, number: int, note: Note, *, timeout_s: float | None = None, adopted: bool = False
) -> None:
    """Raises `StartError` with the last lines of its log where the process ends or the time is over.

    The private port of an adopted process is not known any more: it is asked on the public one.
    """
    address, probe = start.context.address, start.plan.probe
    key, log = key_of(address.name, number), log_of(tools, address.name, number)
    port = start.context.private_port if probe.private and not adopted else address.port
    limit_s = start.plan.start_timeout_s if timeout_s is None else timeout_s
    began = told = anyio.current_time()
    pause_s = _FIRST_LOOK_S
    while True:
        if (ended := tools.endings.ending(key)) is not None:
            raise StartError(
                f"cannot start service {address.name}: it {in_words(ended)}\n{ended.tail or tail(log)}".rstrip()
            )
        if await _answers(probe, address.host, port, began + limit_s):
            return
        now = anyio.current_time()
        if now - began > limit_s:
            raise StartError(
                f"cannot start service {address.name}: not ready after {limit_s:.0f} s\n{tail(log)}".rstrip()
            )
        if now - told >= _NOTE_EVERY_S:
            told = now
            note(f"waiting for {address.name} to get ready ({now - began:.0f} s)")
        with anyio.move_on_after(pause_s):
            await tools.endings.wait(key)
        pause_s = min(_LONGEST_LOOK_S, pause_s * 1.5)


async def _answers(probe: HttpProbe, host: str, port: int, deadline: float) -> bool:
    with anyio.move_on_at(deadline + _LONGEST_LOOK_S):
        return await is_ready(probe, host, port)
    return False


def tail(log: Path) -> str:
    """The last lines of a log that may not exist."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-_TAIL_LINES:])
