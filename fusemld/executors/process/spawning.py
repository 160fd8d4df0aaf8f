"""Starts programs, and finds them again in /proc."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Collection

from fusemld.executors.process.wire import Spawn
from fusemld.model.errors import may_pass

LISTENER_DESCRIPTOR = 3
MARKER = "FUSEMLD_ATTEMPT"
"""Variable in the environment of every process that the keeper starts: `<state folder's marker>:<key>`."""

_LOOKS = 50
_DEFAULT_PATH = os.fsencode(os.defpath)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class ExecError(Exception):
    """the program could not be executed: the text is the operating system's"""


def start(request: Spawn, marker: str, output: int, null: int, home: int, listener: int | None) -> int:
    """Start the program as leader of a session of its own and return its pid. `home` is a descriptor of the folder
    that this process, which has one thread, comes back to.

    Raises `ExecError` if it cannot be executed, OSError if this system has no room for it now.

    `subprocess.Popen` would cost 0.1 ms more, a tenth of what it takes to start `true` and see it end.
    """
    env = request.env | {MARKER.encode(): f"{marker}:{request.key}".encode()}
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
    if listener is not None:
        env[b"LISTEN_FDS"] = b"1"
        actions.append((os.POSIX_SPAWN_DUP2, listener, LISTENER_DESCRIPTOR))
    verb, name = "enter", request.cwd
    try:
        os.chdir(request.cwd)
        verb, name = "execute", request.argv[0]
        os.environb[b"PATH"] = env.get(b"PATH", _DEFAULT_PATH)  # where the C library looks for the program
        # Every other descriptor of this process is closed by exec.
        return os.posix_spawnp(
            request.argv[0],
            request.argv,
            env,
            file_actions=actions,
            setsid=True,
            setsigdef=_IGNORED_BY_PYTHON,
        )
    except ValueError as error:
        raise ExecError(f"cannot {verb} {_shown(name)}: {error}") from error
    except OSError as error:
        if may_pass(error):
            raise
        raise ExecError(f"cannot {verb} {_shown(name)}: {os.strerror(error.errno or 0)}") from error
    finally:
        os.fchdir(home)


def _shown(name: bytes) -> str:
    """As text that can be told: a name may have any bytes."""
    return name.decode("utf-8", "backslashreplace")


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:  # noqa: PTH123 - spares the keeper a Path
        return file.read().strip()


def start_ticks(pid: int) -> int:
    """When the process started, in clock ticks since boot; 0 if it is not there. Raises OSError for want of
    descriptors: then nobody knows."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - 50,000 times a minute
            data = file.read(4096)
    except OSError as error:
        if lacks_descriptors(error):
            raise
        return 0
    # The name in parentheses may hold anything; the state follows it, the start time is field 22.
    fields = data[data.rfind(b")") + 2 :].split()
    return 0 if fields[0] in b"ZX" else int(fields[19])


def marked(marker: str) -> dict[int, str]:
    """The living processes that carry the marker, with their keys, wherever they moved in the process tree. Raises
    OSError for want of descriptors."""
    found: dict[int, str] = {}
    prefix = f"{MARKER}={marker}:".encode()
    for name in os.listdir("/proc"):  # noqa: PTH208 - as above
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb", buffering=0) as file:  # noqa: PTH123 - as above
                environ = file.read()
        except OSError as error:
            if lacks_descriptors(error):
                raise
            continue
        for variable in environ.split(b"\0"):
            if variable.startswith(prefix):
                found[int(name)] = variable[len(prefix) :].decode(errors="replace")
                break
    return found


def lacks_descriptors(error: OSError) -> bool:
    """Whether nothing is known of what was to be opened: this process, or this host, has too many open files."""
    return error.errno in {errno.EMFILE, errno.ENFILE}


def frozen(marker: str, keys: Collection[str] | None = None) -> dict[int, str]:
    """Those of them that belong to the keys, stopped (SIGSTOP): what forks while it is looked for gets away from
    a look, but not from looks that are repeated until nobody new is found."""
    stopped: dict[int, str] = {}
    for _ in range(_LOOKS):
        found = marked(marker)
        new = {pid: key for pid, key in found.items() if pid not in stopped and (keys is None or key in keys)}
        if not new:
            break
        for pid in new:
            kill(pid, signal.SIGSTOP)
        stopped |= new
    return stopped


def kill(pid: int, signal_number: int = signal.SIGKILL) -> None:
    try:
        os.kill(pid, signal_number)
    except (ProcessLookupError, PermissionError):
        return


def signal_group(group: int, signal_number: int) -> bool:
    """False if the group has no members (any more)."""
    try:
        os.killpg(group, signal_number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
