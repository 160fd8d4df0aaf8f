from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fusemld.executors.kubernetes.masks import Masks

VALUES = frozenset({b"canary-one", b"two\n\x00\xff"})


def test_the_next_daemon_knows_what_to_mask_by_the_key_of_the_pod(tmp_path: Path) -> None:
    key = Masks(tmp_path / "state").keep("pod-1", VALUES)

    assert Masks(tmp_path / "state").recall("pod-1", key) == VALUES


def test_neither_the_file_nor_the_key_says_anything_alone(tmp_path: Path) -> None:
    masks = Masks(tmp_path)
    key = masks.keep("pod-1", VALUES)
    another = masks.keep("pod-2", VALUES)
    (file, _) = sorted(tmp_path.iterdir())

    assert b"canary" not in file.read_bytes()
    assert "canary" not in key
    assert masks.recall("pod-1", another) is None
    assert file.stat().st_mode & 0o077 == 0


@given(st.text(max_size=60))
def test_a_key_that_is_none_gives_nothing(key: str) -> None:
    assert Masks(Path("/nonexistent")).recall("pod-1", key) is None
