"""Where the daemon keeps its state and listens unless it is told otherwise. Pure: nothing here looks at a disk.

| | the first of these that applies |
| --- | --- |
| state folder | `FUSEMLD_STATE`; `STATE_DIRECTORY` (systemd sets it); `/var/lib/fusemld` for root; `$XDG_STATE_HOME/fusemld`; `~/.local/state/fusemld` |
| socket | `FUSEMLD_SOCKET`; `RUNTIME_DIRECTORY/fusemld.sock` (systemd); `/run/fusemld/fusemld.sock` for root; `$XDG_RUNTIME_DIR/fusemld/fusemld.sock`; `run/fusemld.sock` below the state folder |
| socket, as a client looks for it | `FUSEMLD_SOCKET`; then the user's own daemon, then the system's: whichever exists |
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

SYSTEM_STATE = Path("/var/lib/fusemld")
SYSTEM_SOCKET = Path("/run/fusemld/fusemld.sock")
SOCKET_NAME = "fusemld.sock"


def state_folder(env: Mapping[str, str], uid: int) -> Path:
    """The default state folder of a daemon with this environment and effective user."""
    if explicit := env.get("FUSEMLD_STATE"):
        return Path(explicit)
    if systemd := env.get("STATE_DIRECTORY"):
        return Path(systemd.partition(":")[0])
    if uid == 0:
        return SYSTEM_STATE
    base = env.get("XDG_STATE_HOME")
    return (Path(base) if base else Path(env.get("HOME", "/"), ".local", "state")) / "fusemld"


def socket_path(env: Mapping[str, str], uid: int, state: Path | None = None) -> Path:
    """Where a daemon listens; `state` is its state folder where that is not the default one."""
    if explicit := env.get("FUSEMLD_SOCKET"):
        return Path(explicit)
    if systemd := env.get("RUNTIME_DIRECTORY"):
        return Path(systemd.partition(":")[0], SOCKET_NAME)
    if uid == 0:
        return SYSTEM_SOCKET
    if runtime := env.get("XDG_RUNTIME_DIR"):
        return Path(runtime, "fusemld", SOCKET_NAME)
    return (state or state_folder(env, uid)) / "run" / SOCKET_NAME


def client_sockets(env: Mapping[str, str], uid: int) -> tuple[Path, ...]:
    """Where a client looks, best first: it takes the first that exists, and names the first in its error."""
    own = socket_path(env, uid)
    if env.get("FUSEMLD_SOCKET") or own == SYSTEM_SOCKET:
        return (own,)
    return (own, SYSTEM_SOCKET)
