"""Reads the outputs that a process left behind."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from fusemld.executors.masking import HOLDS_CREDENTIAL, holds_any
from fusemld.executors.outputs import too_large_together
from fusemld.executors.process.spawning import lacks_descriptors


def collect(
    results: bytes, names: Iterable[str], limit_bytes: int, all_limit_bytes: int, patterns: tuple[bytes, ...]
) -> tuple[dict[str, bytes], dict[str, str]]:
    """The outputs that exist, and the reasons why others were refused. `limit_bytes` is that of one,
    `all_limit_bytes` that of all together: those after the one that goes beyond it are not read.

    Only plain files are read, and no link is followed: a step in a sandbox must not make the keeper, which is
    outside, read for it. Raises OSError for want of descriptors.
    """
    outputs: dict[str, bytes] = {}
    refused: dict[str, str] = {}
    left_bytes = all_limit_bytes
    for name in names:
        try:
            data = _read(os.path.join(results, os.fsencode(name)), limit_bytes)  # noqa: PTH118 - paths are bytes
        except FileNotFoundError:
            continue
        except ValueError as error:
            refused[name] = str(error)
        except OSError as error:
            if lacks_descriptors(error):
                raise
            refused[name] = f"it cannot be read: {os.strerror(error.errno or 0)}"
        else:
            left_bytes -= len(data)
            if left_bytes < 0:
                refused[name] = too_large_together(all_limit_bytes)
                break
            if holds_any(data, patterns):
                refused[name] = HOLDS_CREDENTIAL
            else:
                outputs[name] = data
    return outputs, refused


def _read(path: bytes, limit_bytes: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise ValueError("it is not a plain file")
        if state.st_size > limit_bytes:
            raise ValueError(f"it has {state.st_size} bytes; at most {limit_bytes} are allowed")
        data = b""
        while len(data) <= limit_bytes and (piece := os.read(descriptor, limit_bytes + 1 - len(data))):
            data += piece
        if len(data) > limit_bytes:
            raise ValueError(f"it has more than the {limit_bytes} bytes that are allowed")
        return data
    finally:
        os.close(descriptor)
