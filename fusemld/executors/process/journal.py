"""What the keeper must know after it was killed: one line of JSON for everything that happens to a key.

A line is handed to the kernel before the keeper acts on it (a claim before the process is started) or speaks
of it (an end before the daemon hears). That survives `kill -9`. It is not synced to the disk: losing unsynced
lines takes a crash of the host, after which the boot id differs, no process is left, and whatever the
daemon launched but the keeper does not know has to be reported lost anyway.

Nothing secret is written: no arguments, no environment; outputs and last lines were checked and masked before.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from fusemld.hooks.processes import ProcessEnded
from fusemld.model import faults

_COMPACT_ABOVE_LINES = 1000


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag="opened"):
    """A keeper began to write. `marker` is the same for all keepers of a journal: it tells their processes from
    those of other journals, and names the journal."""

    boot: str
    marker: str


class Claimed(msgspec.Struct, frozen=True, kw_only=True, tag="claimed"):
    """From here on the key may have been started."""

    key: str
    at: float
    log: str


class Spawned(msgspec.Struct, frozen=True, kw_only=True, tag="spawned"):
    """`ticks` is the start time of the process in clock ticks since boot: with the pid, it is unique."""

    key: str
    at: float
    pid: int
    ticks: int


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    event: ProcessEnded

    @property
    def key(self) -> str:
        return self.event.key


class Forgotten(msgspec.Struct, frozen=True, kw_only=True, tag="forgotten"):
    key: str


Record = Opened | Claimed | Spawned | Ended | Forgotten

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)


class Entry(msgspec.Struct, kw_only=True):
    """What the journal knows of one key."""

    claimed: Claimed
    spawned: Spawned | None = None
    ended: Ended | None = None

    def records(self) -> Iterator[Record]:
        if self.ended is not None:
            yield self.ended
            return
        yield self.claimed
        if self.spawned is not None:
            yield self.spawned


def is_another(marker: str, before: str) -> bool:
    """Whether the journal before is lost. A keeper of an earlier release names none."""
    return "" not in (marker, before) and marker != before


class Journal:
    """The single writer of the file. Open it only with the keeper's lock in hand."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._size = 0
        self._lines = 0
        self._unwritten = bytearray()
        self.opened: Opened | None = None
        self.entries: dict[str, Entry] = {}

    def open(self) -> None:
        """Read what is there. A line that a crash or a full disk cut off is skipped."""
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        data = self._path.read_bytes()
        self._size = len(data)
        if data and not data.endswith(b"\n"):
            self._unwritten += b"\n"
        for line in data.split(b"\n"):
            if line:
                self._lines += 1
                self._read(line)

    def close(self) -> None:
        os.close(self._descriptor)

    def claim(self, claims: Iterable[Claimed]) -> None:
        """Returns once the claims are safe. Raises OSError, with none of them in the file, if they cannot be."""
        claims = list(claims)
        size, unwritten = self._size, bytes(self._unwritten)
        self.add(*claims)
        try:
            self.commit()
        except OSError:
            os.ftruncate(self._descriptor, size)
            self._size = size
            self._unwritten = bytearray(unwritten)
            self._lines -= len(claims)
            for claim in claims:
                del self.entries[claim.key]
            raise

    def add(self, *records: Record) -> None:
        """Take note; safe after the next `commit`."""
        for record in records:
            self._apply(record)
            self._unwritten += _encoder.encode(record)
            self._unwritten += b"\n"
            self._lines += 1

    def commit(self) -> None:
        """Raises OSError where the file cannot be written; what was not written is tried again by the next."""
        while self._unwritten:
            written = os.write(self._descriptor, self._unwritten)
            self._size += written
            del self._unwritten[:written]
        if self._lines > _COMPACT_ABOVE_LINES and self._lines > 6 * len(self.entries):
            self._compact()

    def _read(self, line: bytes) -> None:
        try:
            self._apply(_decoder.decode(line))
        except msgspec.MsgspecError:
            return

    def _apply(self, record: Record) -> None:
        match record:
            case Opened():
                self.opened = record
            case Claimed():
                self.entries[record.key] = Entry(claimed=record)
            case Spawned():
                if entry := self.entries.get(record.key):
                    entry.spawned = record
            case Ended():
                entry = self.entries.get(record.key)
                if entry is None:
                    # Compaction keeps only the end of what has ended.
                    claimed = Claimed(key=record.key, at=record.event.at, log="")
                    self.entries[record.key] = Entry(claimed=claimed, ended=record)
                else:
                    entry.ended = record
            case Forgotten():
                self.entries.pop(record.key, None)

    def _compact(self) -> None:
        """Write the file anew with what is not forgotten; the old one counts until the new one is complete. Where
        that cannot be done now, it goes on growing."""
        replacement = self._path.with_suffix(".new")
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        try:
            descriptor = os.open(replacement, flags, 0o600)
        except OSError:
            return
        records: list[Record] = [] if self.opened is None else [self.opened]
        for entry in self.entries.values():
            records += entry.records()
        data = memoryview(b"".join(_encoder.encode(record) + b"\n" for record in records))
        try:
            size = 0
            while size < len(data):
                size += os.write(descriptor, data[size:])
            faults.point("keeper.compacted")
            replacement.rename(self._path)
        except OSError:
            os.close(descriptor)
            return
        os.close(self._descriptor)
        self._descriptor, self._size, self._lines = descriptor, size, len(records)
