"""Gives a test a daemon of its own, and sees to it that nothing of it is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.daemon import Daemon, daemon_of


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that is not started yet; nothing of it is left afterwards."""
    with daemon_of(tmp_path) as made:
        yield made
