"""The keeper's own log, which nobody reads until something is wrong: it does not grow for ever."""

from __future__ import annotations

import os
from pathlib import Path

from fusemld.executors.process.loop import Loop, log

LIMIT_BYTES = 4 * 1024 * 1024
_LOOK_EVERY_S = 3600.0


def shorten(path: Path) -> None:
    """Where it has more than `LIMIT_BYTES`, move the last of them, in whole lines, to a file beside it, its name
    with `.1`, in the place of an earlier one. Everybody appends to it, so whoever has it open goes on."""
    try:
        with path.open("r+b") as file:
            if os.fstat(file.fileno()).st_size <= LIMIT_BYTES:
                return
            file.seek(-LIMIT_BYTES - 1, os.SEEK_END)
            file.readline()
            path.with_name(f"{path.name}.1").write_bytes(file.read())
            file.truncate(0)
    except OSError as error:
        log(f"cannot shorten this log: {error}")


def keep_short(path: Path, loop: Loop) -> None:
    """From now on."""
    shorten(path)
    loop.after(_LOOK_EVERY_S, lambda: keep_short(path, loop))
