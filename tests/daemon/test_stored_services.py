"""Records of services in a real database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from fusemld.daemon.stored_services import StoredServices
from fusemld.model.service import ServiceRecord
from fusemld.store.changes import PutService
from fusemld.store.errors import StoreError
from fusemld.store.reads import SERVICES
from fusemld.store.sqlite import Store

GOOD = ServiceRecord(name="good", kind="k", host="h", port=1)
BAD = replace(GOOD, name="bad")


async def test_a_record_that_cannot_be_read_is_neither_replaced_nor_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "fusemld.db"
    async with Store.open(path) as store:
        await store.write(PutService(GOOD), PutService(BAD))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE services SET data = '{' WHERE key = 'bad'")

    async with Store.open(path) as store:
        services = StoredServices(store)
        loaded = await services.load()
        for refused in (services.save(BAD), services.delete("bad")):
            with pytest.raises(
                StoreError, match=r"cannot tell what service bad is: .* 'bad' of the table services"
            ):
                await refused
        await services.save(replace(GOOD, port=2))
        unreadable = (await store.entries(SERVICES)).unreadable

    assert loaded == [GOOD]
    assert set(unreadable) == {"bad"}
