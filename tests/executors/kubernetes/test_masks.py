from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemld.executors.kubernetes.masks import Masks
from fusemld.model.errors import FusemldError, StartError, UnavailableError

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


@pytest.mark.parametrize(
    ("code", "meant"),
    [(errno.ENOSPC, UnavailableError), (errno.EMFILE, UnavailableError), (errno.EACCES, StartError)],
)
def test_a_disk_that_is_full_now_is_no_reason_to_give_up_the_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, meant: type[FusemldError]
) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fusemld.executors.kubernetes.masks.os.open", fail)

    with pytest.raises(meant, match=f"cannot remember what to mask .*{os.strerror(code)}"):
        Masks(tmp_path).keep("pod-1", VALUES)


@given(st.text(max_size=60))
def test_a_key_that_is_none_gives_nothing(key: str) -> None:
    assert Masks(Path("/nonexistent")).recall("pod-1", key) is None
