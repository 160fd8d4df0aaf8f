"""Places where tests may let a process die as if by `kill -9`.

`FUSEMLD_FAULT=NAME` kills the process that reaches the point NAME; `NAME:3` at the third time. Without the
variable a point costs one comparison. Points are listed where they are used: `grep -r 'faults.point'`.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "FUSEMLD_FAULT"

_name, _, _count = os.environ.get(VARIABLE, "").partition(":")
_left = int(_count or 1)


def point(name: str) -> None:
    """Die here if the environment of this process says so."""
    global _left  # noqa: PLW0603 - counts per process, like the variable itself
    if name != _name:
        return
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
