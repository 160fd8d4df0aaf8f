"""Gives a test a daemon of its own, and sees to it that nothing of it is left."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.daemon import Daemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that is not started yet; nothing of it is left afterwards."""
    with tempfile.TemporaryDirectory(prefix="fusemld-") as runtime:
        made = Daemon(tmp_path / "d", Path(runtime))
        try:
            yield made
        finally:
            made.close()
            left = made.processes()
            for process in left:
                process.kill()
            assert not left, f"left over: {[process.cmdline() for process in left]}"
