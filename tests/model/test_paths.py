from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from fusemld.model.paths import client_sockets, socket_path, state_folder


@pytest.mark.parametrize(
    ("env", "uid", "expected"),
    [
        ({"FUSEMLD_STATE": "/s", "STATE_DIRECTORY": "/t"}, 0, "/s"),
        ({"STATE_DIRECTORY": "/t:/u"}, 5, "/t"),
        ({"XDG_STATE_HOME": "/x"}, 0, "/var/lib/fusemld"),
        ({"XDG_STATE_HOME": "/x", "HOME": "/h"}, 5, "/x/fusemld"),
        ({"HOME": "/h"}, 5, "/h/.local/state/fusemld"),
    ],
)
def test_the_state_folder_follows_the_documented_order(env: Mapping[str, str], uid: int, expected: str) -> None:
    assert state_folder(env, uid) == Path(expected)


@pytest.mark.parametrize(
    ("env", "uid", "expected"),
    [
        ({"FUSEMLD_SOCKET": "/s.sock", "RUNTIME_DIRECTORY": "/r"}, 0, "/s.sock"),
        ({"RUNTIME_DIRECTORY": "/r"}, 5, "/r/fusemld.sock"),
        ({"XDG_RUNTIME_DIR": "/x"}, 0, "/run/fusemld/fusemld.sock"),
        ({"XDG_RUNTIME_DIR": "/x"}, 5, "/x/fusemld/fusemld.sock"),
        ({"HOME": "/h"}, 5, "/h/.local/state/fusemld/run/fusemld.sock"),
    ],
)
def test_the_socket_follows_the_documented_order(env: Mapping[str, str], uid: int, expected: str) -> None:
    assert socket_path(env, uid) == Path(expected)


def test_without_a_runtime_folder_the_socket_is_below_the_state_folder_in_use() -> None:
    assert socket_path({"HOME": "/h"}, 5, Path("/elsewhere")) == Path("/elsewhere/run/fusemld.sock")


def test_a_client_looks_at_the_users_own_daemon_before_the_system_one() -> None:
    assert client_sockets({"XDG_RUNTIME_DIR": "/x"}, 5) == (
        Path("/x/fusemld/fusemld.sock"),
        Path("/run/fusemld/fusemld.sock"),
    )


def test_a_client_that_was_told_a_socket_looks_nowhere_else() -> None:
    assert client_sockets({"FUSEMLD_SOCKET": "/s.sock"}, 5) == (Path("/s.sock"),)
