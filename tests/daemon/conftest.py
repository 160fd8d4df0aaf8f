from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

import anyio
import pytest

from fusemld.intake.catalog import Catalog
from fusemld.model.document import Document
from fusemld.store.sqlite import Store
from tests.daemon.retaining import NOW, Host, OpenHost
from tests.daemon.room import OpenRoom, RecordingExecutor, Room, ScriptedStep
from tests.daemon.running import CHAIN, Clock, Engine, OpenEngine, document_of


@pytest.fixture
def chain() -> Document:
    """Two steps, the second waits for the first."""
    return document_of(CHAIN)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(tmp_path: Path, clock: Clock) -> OpenEngine:
    """`async with engine() as running`: as often as a test likes, each time a new life on the same database."""

    @asynccontextmanager
    async def life(slots: int | None = None, *, is_started: bool = True) -> AsyncGenerator[Engine]:
        async with Store.open(tmp_path / "fusemld.db") as store, anyio.create_task_group() as tasks:
            running = Engine(store, tasks, clock, slots)
            if is_started:
                await running.start()
            yield running
            tasks.cancel_scope.cancel()

    return life


@pytest.fixture
def room(tmp_path: Path, engine: OpenEngine) -> OpenRoom:
    """`async with room() as running`: like `engine`, with the real performer."""

    @asynccontextmanager
    async def life(
        script: ScriptedStep | None = None,
        slots: int | None = None,
        *,
        is_started: bool = True,
        others: Mapping[str, RecordingExecutor] = MappingProxyType({}),
    ) -> AsyncGenerator[Room]:
        async with engine(slots, is_started=False) as running:
            made = Room(running, tmp_path / "state", script, others)
            if is_started:
                await made.start()
            yield made

    return life


@pytest.fixture
def host(engine: OpenEngine, tmp_path: Path) -> OpenHost:
    @asynccontextmanager
    async def life() -> AsyncGenerator[Host]:
        async with engine() as running:
            running.clock.now = NOW
            yield Host(running, tmp_path / "state", Catalog(await running.store.documents()))

    return life
