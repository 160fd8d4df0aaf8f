"""How the keeper leaves the process that started it and becomes the only one of its state folder."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_OOM_SCORE = -500
_FIRST_FREE_DESCRIPTOR = 10
_READY = b"."
_LONGEST_PROBLEM_BYTES = 1000


@contextlib.contextmanager
def detached(folder: Path) -> Iterator[Callable[[], None] | None]:
    """Become a process without terminal, session or waiting parent, with the lock of the folder in hand.

    Yields a function to call when the keeper is ready: only then the process that was started goes on; there,
    None is yielded. Standard error is the keeper's log afterwards. Ends the process where another keeper has
    the lock. An OSError before the keeper is ready is what the process that was started prints and ends with.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(writer)
        # A byte, what went wrong, or the end of the pipe if there is nothing (more) to wait for.
        if (told := os.read(reader, _LONGEST_PROBLEM_BYTES)) not in (b"", _READY):
            os.write(1, told)
            os._exit(1)
        yield None
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    is_ready = False

    def ready() -> None:
        nonlocal is_ready
        is_ready = True
        os.write(writer, _READY)
        os.close(writer)

    try:
        writer = _keep_only(folder, writer)
        _lock(folder)
        os.chdir(folder)
        # Whoever loses its parent becomes a child of the keeper, so that nothing of a step gets out of sight.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        yield ready
    except OSError as error:
        if not is_ready:
            os.write(writer, str(error).encode(errors="replace")[:_LONGEST_PROBLEM_BYTES])
        raise


def _lock(folder: Path) -> None:
    """Have the lock of the folder until the process ends, or end it."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os._exit(0)


def _keep_only(folder: Path, writer: int) -> int:
    """Close what was inherited, but for the writer, and open the standard descriptors anew."""
    writer = fcntl.fcntl(writer, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_DESCRIPTOR)
    log = os.open(folder / "keeper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(3, writer)
    os.closerange(writer + 1, os.sysconf("SC_OPEN_MAX"))
    return writer


def lower_oom_score() -> str | None:
    """Make the kernel prefer others when memory runs out. Returns the score that children must get back,
    None where this is not allowed."""
    try:
        before = Path("/proc/self/oom_score_adj").read_text()
        if int(before) > _OOM_SCORE:
            Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
    except (OSError, ValueError):
        return None
    return before


def set_oom_score(pid: int, score: str) -> None:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "w") as file:  # noqa: PTH123 - per start
        file.write(score)
