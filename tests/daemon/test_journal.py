"""The journal stops nobody, wherever standard error goes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from fusemld.daemon import journal
from fusemld.daemon.settings import LogSettings


@pytest.fixture
def _as_before() -> Iterator[None]:
    handlers = logging.getLogger().handlers[:]
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers


@pytest.mark.usefixtures("_as_before")
def test_a_journal_on_a_full_disk_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115 - closing it would raise, too
    monkeypatch.setattr(sys, "stderr", full)
    journal.configure(LogSettings())

    structlog.get_logger("any").error("store.unavailable", error="the disk is full")

    with pytest.raises(OSError, match="No space left"):
        full.close()
