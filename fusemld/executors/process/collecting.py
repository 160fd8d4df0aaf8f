"""Reads the outputs that a process left behind."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from fusemld.executors.masking import HOLDS_CREDENTIAL, holds_any
from fusemld.executors.outputs import too_large_together
from fusemld.executors.process.spawning import lacks_descriptors
from fusemld.hooks.processes import LeftOutput
from fusemld.model.errors import may_pass


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """The outputs that exist, either as they are or as what is left, and the reasons why others were refused."""

    outputs: dict[str, bytes]
    left: dict[str, LeftOutput]
    refused: dict[str, str]


class Collector:
    """Reads the outputs of one process, one at a time: who has others to look after does that in between.

    `limit_bytes` is that of one, `all_limit_bytes` that of all together: those after the one that goes beyond it
    are not read. Where they have more than `told_bytes` together (0: however many) they are left.

    Only plain files are read, and no link is followed: a step in a sandbox must not make the keeper, which is
    outside, read for it.
    """

    def __init__(
        self,
        results: bytes,
        names: Iterable[str],
        limit_bytes: int,
        all_limit_bytes: int,
        told_bytes: int,
        patterns: tuple[bytes, ...],
    ) -> None:
        self.found = Collected(outputs={}, left={}, refused={})
        self._results = results
        self._names = collections.deque(names)
        self._limit_bytes = limit_bytes
        self._all_limit_bytes = all_limit_bytes
        self._taken_bytes = 0
        self._patterns = patterns
        self.are_left = 0 < told_bytes < sum(_size(_path(results, name)) for name in self._names)

    def go_on(self) -> bool:
        """Read the next one, if there is one. Raises OSError for want of descriptors: the next call tries it."""
        if not self._names:
            return False
        name = self._names[0]
        try:
            data = _read(_path(self._results, name), self._limit_bytes)
        except FileNotFoundError:
            pass
        except ValueError as error:
            self.found.refused[name] = str(error)
        except OSError as error:
            if lacks_descriptors(error):
                raise
            self.found.refused[name] = f"it cannot be read: {os.strerror(error.errno or 0)}"
        else:
            self._take(name, data)
        if self._names:
            self._names.popleft()
        return bool(self._names)

    def _take(self, name: str, data: bytes) -> None:
        self._taken_bytes += len(data)
        if self._taken_bytes > self._all_limit_bytes:
            self.found.refused[name] = too_large_together(self._all_limit_bytes)
            self._names.clear()
        elif holds_any(data, self._patterns):
            self.found.refused[name] = HOLDS_CREDENTIAL
        elif self.are_left:
            self.found.left[name] = _left(data)
        else:
            self.found.outputs[name] = data


def read_left(results: Path, left: Mapping[str, LeftOutput]) -> dict[str, bytes] | None:
    """The content of outputs that were left; None where one is not any more what it was. Raises OSError for want
    of something that comes back."""
    outputs: dict[str, bytes] = {}
    for name, before in left.items():
        try:
            data = _read(_path(os.fsencode(results), name), before.size_bytes)
        except ValueError:
            return None
        except OSError as error:
            if may_pass(error):
                raise
            return None  # a link, no folder any more: what is left of a step may have made anything of it
        if _left(data) != before:
            return None
        outputs[name] = data
    return outputs


def _path(results: bytes, name: str) -> bytes:
    return os.path.join(results, os.fsencode(name))  # noqa: PTH118 - paths are bytes


def _size(path: bytes) -> int:
    with contextlib.suppress(OSError):
        return os.lstat(path).st_size
    return 0


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


def _left(data: bytes) -> LeftOutput:
    return LeftOutput(size_bytes=len(data), digest=hashlib.sha256(data).hexdigest())
