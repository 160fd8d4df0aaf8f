from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from fusemld.api.sockets import PATH_LIMIT_BYTES, listening_socket
from fusemld.model.errors import StartError


def test_a_socket_that_nobody_listens_on_is_replaced(socket_folder: Path) -> None:
    path = socket_folder / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    before = path.stat().st_ino

    with listening_socket(path) as bound:
        bound.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))

        assert path.stat().st_ino != before or bound.getsockname() == str(path)


def test_a_socket_on_which_somebody_listens_is_never_taken(socket_folder: Path) -> None:
    path = socket_folder / "s.sock"
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen()

        with pytest.raises(StartError, match="another daemon listens there"), listening_socket(path):
            pass

        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_of_two_that_start_at_once_only_one_gets_the_socket(socket_folder: Path) -> None:
    path = socket_folder / "s.sock"

    with (
        listening_socket(path),  # bound, but not listening yet: a probe alone would take it for stale
        pytest.raises(StartError, match="another daemon"),
        listening_socket(path),
    ):
        pass


def test_the_mode_is_private_whatever_the_umask(socket_folder: Path) -> None:
    path = socket_folder / "new" / "s.sock"
    umask = os.umask(0)
    try:
        with listening_socket(path):
            modes = [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)]
    finally:
        os.umask(umask)

    assert modes == [0o600, 0o700]


def test_with_a_group_its_members_can_reach_the_socket(socket_folder: Path) -> None:
    path = socket_folder / "new" / "s.sock"
    group = os.getgid()

    with listening_socket(path, group):
        modes = [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)]
        groups = [each.stat().st_gid for each in (path, path.parent)]

    assert (modes, groups) == ([0o660, 0o750], [group, group])


def test_a_path_over_the_systems_limit_is_refused_with_the_remedy(socket_folder: Path) -> None:
    path = socket_folder / ("x" * PATH_LIMIT_BYTES)

    with pytest.raises(StartError, match=r"at most 107 bytes.*--socket"), listening_socket(path):
        pass


def test_a_file_that_is_no_socket_is_left_alone(socket_folder: Path) -> None:
    path = socket_folder / "s.sock"
    path.write_text("precious")

    with pytest.raises(StartError, match="not a socket"), listening_socket(path):
        pass

    assert path.read_text() == "precious"


def test_a_folder_where_anybody_may_write_is_refused(socket_folder: Path) -> None:
    folder = socket_folder / "open"
    folder.mkdir()
    folder.chmod(0o777)

    with pytest.raises(StartError, match="anybody may write there"), listening_socket(folder / "s.sock"):
        pass


def test_a_socket_that_somebody_else_put_in_its_place_is_not_removed(socket_folder: Path) -> None:
    path = socket_folder / "s.sock"

    with listening_socket(path):
        path.rename(socket_folder / "old")
        path.write_text("theirs")

    assert path.read_text() == "theirs"


def test_an_error_of_the_one_who_uses_the_socket_passes_unchanged(socket_folder: Path) -> None:
    with pytest.raises(OSError, match="mine"), listening_socket(socket_folder / "s.sock"):
        raise OSError("mine")
