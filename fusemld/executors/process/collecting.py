"""Reads the outputs that a process left behind."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from fusemld.executors.masking import HOLDS_CREDENTIAL, holds_any
from fusemld.executors.outputs import too_large_together
from fusemld.executors.process.spawning import lacks_descriptors
from fusemld.hooks.processes import LeftOutput


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """The outputs that exist, either as they are or as what is left, and the reasons why others were refused."""

    outputs: dict[str, bytes]
    left: dict[str, LeftOutput]
    refused: dict[str, str]


def collect(
    results: bytes,
    names: Iterable[str],
    limit_bytes: int,
    all_limit_bytes: int,
    told_bytes: int,
    patterns: tuple[bytes, ...],
) -> Collected:
    """`limit_bytes` is that of one, `all_limit_bytes` that of all together: those after the one that goes beyond
    it are not read. Where they have more than `told_bytes` together (0: however many) they are left, and are read
    here only to look for the `patterns`.

    Only plain files are read, and no link is followed: a step in a sandbox must not make the keeper, which is
    outside, read for it. Raises OSError for want of descriptors.
    """
    names = tuple(names)
    found = Collected(outputs={}, left={}, refused={})
    are_left = 0 < told_bytes < sum(_size(_path(results, name)) for name in names)
    left_bytes = all_limit_bytes
    for name in names:
        try:
            data, file = _read(_path(results, name), limit_bytes, is_wanted=bool(patterns) or not are_left)
        except FileNotFoundError:
            continue
        except ValueError as error:
            found.refused[name] = str(error)
        except OSError as error:
            if lacks_descriptors(error):
                raise
            found.refused[name] = f"it cannot be read: {os.strerror(error.errno or 0)}"
        else:
            left_bytes -= file.size_bytes if are_left else len(data)
            if left_bytes < 0:
                found.refused[name] = too_large_together(all_limit_bytes)
                break
            if holds_any(data, patterns):
                found.refused[name] = HOLDS_CREDENTIAL
            elif are_left:
                found.left[name] = file
            else:
                found.outputs[name] = data
    return found


def read_left(results: Path, left: Mapping[str, LeftOutput]) -> dict[str, bytes] | None:
    """The content of outputs that were left; None where one is not any more what it was. Raises OSError for want
    of something that comes back."""
    outputs: dict[str, bytes] = {}
    for name, before in left.items():
        try:
            data, now = _read(_path(os.fsencode(results), name), before.size_bytes, is_wanted=True)
        except (FileNotFoundError, ValueError):
            return None
        if now != before or len(data) != before.size_bytes:
            return None
        outputs[name] = data
    return outputs


def _path(results: bytes, name: str) -> bytes:
    return os.path.join(results, os.fsencode(name))  # noqa: PTH118 - paths are bytes


def _size(path: bytes) -> int:
    with contextlib.suppress(OSError):
        return os.lstat(path).st_size
    return 0


def _read(path: bytes, limit_bytes: int, *, is_wanted: bool) -> tuple[bytes, LeftOutput]:
    """Its content, where that is wanted, and what it was after that was read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise ValueError("it is not a plain file")
        if state.st_size > limit_bytes:
            raise ValueError(f"it has {state.st_size} bytes; at most {limit_bytes} are allowed")
        data = b""
        while (
            is_wanted and len(data) <= limit_bytes and (piece := os.read(descriptor, limit_bytes + 1 - len(data)))
        ):
            data += piece
        if len(data) > limit_bytes:
            raise ValueError(f"it has more than the {limit_bytes} bytes that are allowed")
        return data, _left(os.fstat(descriptor))
    finally:
        os.close(descriptor)


def _left(state: os.stat_result) -> LeftOutput:
    return LeftOutput(
        inode=state.st_ino,
        size_bytes=state.st_size,
        mtime_ns=state.st_mtime_ns,
        ctime_ns=state.st_ctime_ns,
    )
