"""What is forgotten of the watched folder because it cannot be read, and what is kept all the same."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from fusemld.daemon.legible import known_documents, remembered_files
from fusemld.model.document import DocumentRecord, RememberedFile
from fusemld.store.changes import PutDocument, PutFile
from fusemld.store.sqlite import Store


async def test_what_the_files_tell_is_forgotten_and_everything_else_kept(tmp_path: Path) -> None:
    path = tmp_path / "fusemld.db"
    keys = ("file/a.yaml", "run/a.yaml#0", "shadowed/a.yaml#1", "workflow/hello")
    good = DocumentRecord(key="workflow/good", file="b.yaml")
    files = [
        RememberedFile(path=name, inode=1, size_bytes=1, mtime_ns=1, ctime_ns=1, mark="m")
        for name in ("a.yaml", "b.yaml")
    ]
    async with Store.open(path) as store:
        await store.write(*(PutDocument(DocumentRecord(key=key, file="a.yaml")) for key in keys))
        await store.write(PutDocument(good), *map(PutFile, files))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE documents SET data = '{' WHERE key <> 'workflow/good'")
        connection.execute("UPDATE files SET data = '{' WHERE key = 'a.yaml'")

    async with Store.open(path) as store:
        remembered, documents = await remembered_files(store), await known_documents(store)
        unreadable = {table: set(keys) for table, keys in store.unreadable.items()}

    assert remembered == files[1:]
    assert documents.readable == [good]
    assert set(documents.unreadable) == {"run/a.yaml#0", "workflow/hello"}
    assert unreadable == {"files": set(), "documents": {"run/a.yaml#0", "workflow/hello"}}
