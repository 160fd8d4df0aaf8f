"""Gives a test a daemon of its own, and sees to it that nothing of it is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.daemon import Daemon, daemon_of
from tests.acceptance.pods import Gate, PodDaemon, gate_on
from tests.cluster.local import LocalCluster


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that is not started yet; nothing of it is left afterwards."""
    with daemon_of(tmp_path) as made:
        yield made


@pytest.fixture
def pods(daemon: Daemon, node: LocalCluster, namespace: str) -> Iterator[PodDaemon]:
    """The same with steps that are pods."""
    made = PodDaemon(daemon, node, namespace)
    try:
        yield made
    finally:
        made.history.close()


@pytest.fixture
def gate(node: LocalCluster) -> Iterator[Gate]:
    with gate_on(node) as made:
        yield made
