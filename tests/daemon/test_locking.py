from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fusemld.daemon.locking import state_lock
from fusemld.model.errors import StartError


def test_a_state_folder_has_one_daemon_and_the_second_is_told_which(tmp_path: Path) -> None:
    state = tmp_path / "made" / "state"

    with state_lock(state):
        with (
            pytest.raises(
                StartError, match=rf"a daemon \(process {os.getpid()}\) is using it; `fusemld stop` stops it"
            ),
            state_lock(state),
        ):
            pass
        mode = stat.S_IMODE(state.stat().st_mode)

    assert mode == 0o700


def test_the_lock_goes_with_its_holder(tmp_path: Path) -> None:
    for _ in range(2):
        with state_lock(tmp_path):
            pass

    child = os.fork()
    if child == 0:
        with state_lock(tmp_path):
            os._exit(0)
    os.waitpid(child, 0)
    with state_lock(tmp_path):
        holder = (tmp_path / "daemon.lock").read_text()

    assert holder == str(os.getpid())


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with (
        pytest.raises(StartError, match=r"cannot use the state folder .*/file/state: Not a directory"),
        state_lock(tmp_path / "file" / "state"),
    ):
        pass
