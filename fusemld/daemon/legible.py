"""What the database remembers of the watched folder, where some of it cannot be read.

Entries that are made anew from the files alone are forgotten then. Others stay as they are: a later daemon may
understand them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from fusemld.model.document import DocumentRecord, RememberedFile
from fusemld.store.changes import Change, DeleteDocument, DeleteFile
from fusemld.store.errors import StoreError
from fusemld.store.reads import DOCUMENTS, FILES, Entries
from fusemld.store.sqlite import Store

_DERIVED = ("file/", "shadowed/")
"""Keys of rows that hold nothing that the files do not tell."""


async def remembered_files(store: Store) -> list[RememberedFile]:
    """A file that is not remembered is read again."""
    found = await store.entries(FILES)
    if await _forgotten(store, map(DeleteFile, found.unreadable)):
        await store.entries(FILES)
    return found.readable


async def known_documents(store: Store) -> Entries[DocumentRecord]:
    found = await store.entries(DOCUMENTS)
    derived = [key for key in found.unreadable if key.startswith(_DERIVED)]
    if await _forgotten(store, map(DeleteDocument, derived)):
        return await store.entries(DOCUMENTS)
    return found


async def _forgotten(store: Store, changes: Iterable[Change]) -> bool:
    """Whether there was something to forget, and it is forgotten. On a full disk it stays, and does no harm."""
    going = tuple(changes)
    with contextlib.suppress(StoreError):
        await store.write(*going)
        return bool(going)
    return False
