"""What is to be removed is out of sight at once, also where the disk has no room for anything."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fusemld.daemon.trash import NAME, Trash


def folder_of_files(path: Path) -> Path:
    path.mkdir()
    for name in ("one", "two"):
        (path / name).write_text(name)
    return path


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def mkdir(path: Path, *_: object, exist_ok: bool = False, **__: object) -> None:
        if not (exist_ok and path.is_dir()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "mkdir", mkdir)


def test_what_goes_is_out_of_its_place_as_a_whole_and_then_removed(tmp_path: Path) -> None:
    doomed = [folder_of_files(tmp_path / name) for name in ("a", "b")]
    trash = Trash(tmp_path)

    taken = [trash.take(path) for path in doomed]
    moved = [sorted(file.name for file in path.iterdir()) for path in taken]
    in_sight = [path.name for path in tmp_path.iterdir()]
    for path in taken:
        trash.remove(path)

    assert moved == [["one", "two"]] * 2
    assert in_sight == [NAME]
    assert list((tmp_path / NAME).iterdir()) == []


def test_a_file_stays_until_it_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    trash = Trash(tmp_path)

    taken = trash.take(file)
    trash.remove(taken)

    assert taken == file
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_killed", [False, True])
def test_on_a_full_disk_what_goes_first_becomes_the_trash(
    tmp_path: Path, is_killed: bool, request: pytest.FixtureRequest
) -> None:
    doomed = [folder_of_files(tmp_path / name) for name in ("a", "b")]
    request.getfixturevalue("no_room")

    trash = Trash(tmp_path)
    taken = [trash.take(path) for path in doomed]
    in_sight = [path.name for path in tmp_path.iterdir()]
    if is_killed:
        (tmp_path / NAME / "one").unlink()
        Trash(tmp_path).empty()
    else:
        for path in taken:
            trash.remove(path)

    assert in_sight == [NAME]
    assert not [path for path in tmp_path.rglob("*") if path.name != NAME]


def test_a_trash_that_cannot_be_made_for_good_is_an_error(tmp_path: Path) -> None:
    doomed = folder_of_files(tmp_path / "a")
    (tmp_path / NAME).write_text("somebody's file")

    with pytest.raises(FileExistsError):
        Trash(tmp_path).take(doomed)

    assert doomed.is_dir()
