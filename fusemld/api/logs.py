"""Step logs as one stream of bytes, followed while they grow."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from typing import BinaryIO

import anyio
import anyio.lowlevel
import msgspec

from fusemld.api.operations import Operations
from fusemld.api.views import LogFile, LogLine

CHUNK_BYTES = 64 * 1024
LOOK_S = 0.2
"""Between two looks at files that grow: they are written by another process, which does not tell us."""


async def read_logs(
    operations: Operations, run: str, step: str | None, attempt: int | None, follow: bool, *, as_data: bool = False
) -> AsyncGenerator[bytes]:
    """The logs of a run, of a step or of an attempt.

    Of a single step byte for byte, further attempts under a line `--- attempt N ---`; of a whole run line by line
    with the step's name before each. `as_data` every line is a `LogLine` as JSON. With `follow` until nothing more
    can come, else what there is now.
    """
    readers: dict[tuple[str, int], _Reader] = {}
    try:
        while True:
            listed = await operations.log_files(run, step, attempt)
            width = max((len(file.step) for file in listed.files), default=0)
            for file in listed.files:
                key = (file.step, file.attempt)
                if key not in readers:
                    readers[key] = _Reader(
                        labelled=step is None, titled=attempt is None and not as_data, as_data=as_data
                    )
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

    def __init__(self, *, labelled: bool, titled: bool, as_data: bool) -> None:
        self.done = False
        self._labelled = labelled
        self._titled = titled
        self._as_data = as_data
        self._file: BinaryIO | None = None
        self._rest = b""
        self._last = b"\n"

    def more(self, file: LogFile, width: int) -> Iterator[bytes]:
        """What has been written since the last call."""
        if self.done:
            return
        shown = self._shown(file, width)
        for chunk in self._chunks(file):
            if file.attempt > 1 and self._titled:
                title = f"--- attempt {file.attempt} ---".encode()
                yield title + b"\n" if shown is None else shown(title)
            self._titled = False
            if shown is None:
                self._last = chunk[-1:]
                yield chunk
            else:
                *lines, self._rest = (self._rest + chunk).split(b"\n")
                yield b"".join(map(shown, lines))
        if file.finished:
            self.done = True
            self.close()
            if self._rest and shown is not None:
                yield shown(self._rest)
            elif self._last != b"\n":
                yield b"\n"

    def _shown(self, file: LogFile, width: int) -> Callable[[bytes], bytes] | None:
        """How a line is written; None where bytes are passed on as they are."""
        if self._as_data:
            line = LogLine(step=file.step, attempt=file.attempt, line="")
            return lambda text: _encoded(msgspec.structs.replace(line, line=text.decode(errors="replace")))
        label = f"{file.step:<{width}} | ".encode()
        return (lambda text: label + text + b"\n") if self._labelled else None

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


def _encoded(line: LogLine) -> bytes:
    return msgspec.json.encode(line) + b"\n"
