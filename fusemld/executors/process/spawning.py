"""Starts programs, and finds them again in /proc."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Collection

from fusemld.executors.process.wire import Spawn

LISTENER_DESCRIPTOR = 3
MARKER = "FUSEMLD_ATTEMPT"
"""Variable in the environment of every process that the keeper starts: `<state folder's marker>:<key>`."""


_LOOKS = 50


class ExecError(Exception):
    """the program could not be executed: the text is the operating system's"""


def start(request: Spawn, marker: str, output: int, null: int, listener: int | None) -> int:
    """Start the program as leader of a session of its own and return its pid.

    Raises `ExecError` if it cannot be executed, OSError if this system has no room for it now.

    `subprocess.Popen` costs 0.06 ms more than its private `fork_exec` and 0.02 ms more than `os.posix_spawn`,
    which cannot set the working folder; all of them use vfork (0.6 ms for `true`).
    """
    env = request.env | {MARKER.encode(): f"{marker}:{request.key}".encode()}
    kept: tuple[int, ...] = ()
    if listener is not None:
        env[b"LISTEN_FDS"] = b"1"
        kept = (LISTENER_DESCRIPTOR,)
        os.dup2(listener, LISTENER_DESCRIPTOR, inheritable=True)
    try:
        process = subprocess.Popen(
            request.argv,
            stdin=null,
            stdout=output,
            stderr=output,
            cwd=request.cwd,
            env=env,
            start_new_session=True,
            pass_fds=kept,
            close_fds=bool(kept),  # every descriptor of the keeper is closed by exec
        )
    except ValueError as error:
        raise ExecError(f"cannot execute {_shown(request.argv[0])}: {error}") from error
    except OSError as error:
        if error.filename is None:
            raise
        name = _shown(error.filename)
        verb = "enter" if error.filename == request.cwd else "execute"
        raise ExecError(f"cannot {verb} {name}: {os.strerror(error.errno or 0)}") from error
    finally:
        if listener is not None:
            os.dup2(null, LISTENER_DESCRIPTOR, inheritable=False)
    process.returncode = 0  # the keeper reaps all children by itself
    return process.pid


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
