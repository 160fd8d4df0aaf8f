"""Step logs as one stream of bytes, followed while they grow."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import BinaryIO

import anyio
import anyio.lowlevel

from fusemld.api.operations import Operations
from fusemld.api.views import LogFile

CHUNK_BYTES = 64 * 1024
LOOK_S = 0.2
"""Between two looks at files that grow: they are written by another process, which does not tell us."""


async def read_logs(
    operations: Operations, run: str, step: str | None, attempt: int | None, follow: bool
) -> AsyncGenerator[bytes]:
    """The logs of a run, of a step or of an attempt.

    Of a single step byte for byte, further attempts under a line `--- attempt N ---`; of a whole run line by line
    with the step's name before each. With `follow` until nothing more can come, else what there is now.
    """
    readers: dict[tuple[str, int], _Reader] = {}
    try:
        while True:
            listed = await operations.log_files(run, step, attempt)
            width = max((len(file.step) for file in listed.files), default=0)
            for file in listed.files:
                key = (file.step, file.attempt)
                if key not in readers:
                    readers[key] = _Reader(labelled=step is None, single=attempt is not None)
                # Known before reading: what is finished is complete, so this read reaches its end.
                for chunk in readers[key].more(file, width):
                    yield chunk
                    await anyio.lowlevel.checkpoint()
            if not follow or (listed.complete and all(reader.done for reader in readers.values())):
                return
            await anyio.sleep(LOOK_S)
    finally:
        for reader in readers.values():
            reader.close()


class _Reader:
    """One file: what of it has been passed on, and how it is shown."""

    def __init__(self, *, labelled: bool, single: bool) -> None:
        self.done = False
        self._labelled = labelled
        self._titled = single
        self._file: BinaryIO | None = None
        self._rest = b""
        self._last = b"\n"

    def more(self, file: LogFile, width: int) -> Iterator[bytes]:
        """What has been written since the last call."""
        if self.done:
            return
        label = f"{file.step:<{width}} | ".encode()
        for chunk in self._chunks(file):
            if file.attempt > 1 and not self._titled:
                yield (label if self._labelled else b"") + f"--- attempt {file.attempt} ---\n".encode()
            self._titled = True
            if self._labelled:
                *lines, self._rest = (self._rest + chunk).split(b"\n")
                yield b"".join(label + line + b"\n" for line in lines)
            else:
                self._last = chunk[-1:]
                yield chunk
        if file.finished:
            self.done = True
            self.close()
            if self._rest:
                yield label + self._rest + b"\n"
            elif self._last != b"\n" and not self._labelled:
                yield b"\n"

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _chunks(self, file: LogFile) -> Iterator[bytes]:
        if self._file is None:
            try:
                self._file = file.path.open("rb")
            except FileNotFoundError:
                return
        while chunk := self._file.read(CHUNK_BYTES):
            yield chunk
