"""Which journal the keeper of a state folder has, for who comes when it is lost: its processes carry that name."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fusemld.executors import durable_files
from fusemld.model.ids import identity_of


class _Record(msgspec.Struct, frozen=True):
    """`folder` is the identity of the state folder: what runs for it is not that of a copy of it."""

    journal: str
    folder: str


def recorded_journal(state_folder: Path) -> str:
    """Empty where none was recorded in this folder."""
    try:
        record = msgspec.json.decode(_file(state_folder).read_bytes(), type=_Record)
    except (FileNotFoundError, msgspec.MsgspecError):
        return ""
    return record.journal if record == _of(state_folder, record.journal) else ""


def record_journal(state_folder: Path, journal: str) -> None:
    """Raises OSError."""
    durable_files.write(_file(state_folder), msgspec.json.encode(_of(state_folder, journal)))


def _of(state_folder: Path, journal: str) -> _Record:
    return _Record(journal, identity_of(state_folder.stat()))


def _file(state_folder: Path) -> Path:
    """Beside the keeper's folder, not in it: who deletes that has deleted the journal."""
    return state_folder / "keeper.json"
