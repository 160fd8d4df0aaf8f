"""Copies of the database for whoever asks for one."""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import BinaryIO

from anyio.to_thread import run_sync

from fusemld.model.errors import UnavailableError
from fusemld.store import copying
from fusemld.store.sqlite import Store

CHUNK_BYTES = 1024 * 1024


class Backups:
    """Makes its copies in `folder`, which nobody else uses."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in folder.iterdir():
            leftover.unlink()

    async def make(self) -> AsyncGenerator[bytes]:
        """The content of a new copy, which was checked. Raises `UnavailableError` where there can be none."""
        path = self._folder / f"{secrets.token_hex(8)}.db"
        try:
            await self._store.back_up(path)
            if damage := await run_sync(_damage, path):
                raise UnavailableError(f"cannot back up the database: it is damaged: {damage}")
            file = path.open("rb")
        except OSError as error:
            raise UnavailableError(f"cannot back up the database: {error}") from error
        finally:
            path.unlink(missing_ok=True)  # what is open stays until it was read
        return _content(file)


async def _content(file: BinaryIO) -> AsyncGenerator[bytes]:
    with file:
        while chunk := await run_sync(file.read, CHUNK_BYTES):
            yield chunk


def _damage(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return copying.damage(connection)
