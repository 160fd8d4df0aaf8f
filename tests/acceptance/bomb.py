"""A program that forks without end, for tests: `python bomb.py`. Every process of it leaves its process group.

It does nothing where nothing holds it."""

import os
import resource
import time
from pathlib import Path

HELD_BELOW = 5000
PAUSE_S = 0.1
"""Refused, the kernel has done most of the work already: in vain it costs as much as a process."""


def is_held() -> bool:
    """By a control group of the keeper's, or by the limit of a user who is not root."""
    groups = Path("/proc/self/cgroup").read_text()
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    return "/fusemld-" in groups or (os.getuid() != 0 and 0 < soft < HELD_BELOW)


def main() -> None:
    assert is_held(), "nothing would hold it"
    print("held", flush=True)
    while True:
        try:
            if os.fork() == 0:
                os.setsid()
        except OSError:
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
