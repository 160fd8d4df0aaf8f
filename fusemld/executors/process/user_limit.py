"""The limit of processes where no control group is to be had: the one that the system has for every user.

It counts all processes and threads of the user, not those of a step. So a step may start others as long as the
user has at most so many as there are on the whole host when the step starts, and the step's limit more. Steps
that were started before one that reaches its limit may then fail to start processes, too. Root is not bound by it.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator


def holds(user: int | None = None) -> bool:
    """Whether it means anything to this process, or to another user's."""
    return (os.geteuid() if user is None else user) != 0


def on_host() -> int:
    """How many processes and threads there are."""
    with open("/proc/loadavg", "rb", buffering=0) as file:  # noqa: PTH123 - spares the keeper a Path, at every start
        return int(file.read(200).split()[3].partition(b"/")[2])


@contextlib.contextmanager
def bounded(more: int) -> Iterator[int]:
    """What is started meanwhile may start others up to the number that is yielded."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    bound = on_host() + more
    if soft != resource.RLIM_INFINITY:
        bound = min(bound, soft)
    resource.setrlimit(resource.RLIMIT_NPROC, (bound, hard))
    try:
        yield bound
    finally:
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
