from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fusemld.executors.process.folders import AttemptNote, attempt_folder
from fusemld.hooks.executors import MountedCodeset
from fusemld.model.run import AttemptKey

KEY = AttemptKey("run", "step", 1)


def mounted(source: Path) -> MountedCodeset:
    return MountedCodeset(path="/project", project="prj", name="code", version="1", digest="d", source=source)


def pinned(tmp_path: Path) -> Path:
    source = tmp_path / "pinned"
    (source / "deep").mkdir(parents=True)
    (source / "train.py").write_text("print()\n")
    (source / "train.py").chmod(0o555)
    (source / "deep" / "empty").touch()
    (source / "link").symlink_to("deep/empty")
    (source / "deep").chmod(0o555)
    return source


def test_an_attempt_may_change_its_copy_and_nobody_else_sees_it(tmp_path: Path) -> None:
    source = pinned(tmp_path)
    folder = attempt_folder(tmp_path / "state", KEY)

    folder.prepare([mounted(source)], has_outputs=True)
    copy = folder.codeset(0)
    (copy / "train.py").write_text("changed")
    (copy / "deep" / "new").touch()

    assert (source / "train.py").read_text() == "print()\n"
    assert not (source / "deep" / "new").exists()
    assert (copy / "train.py").stat().st_mode & 0o777 == 0o755
    assert (copy / "link").readlink() == Path("deep/empty")
    assert (copy / ".fuseml" / "_org").read_text() == "prj"
    assert (copy / ".fuseml" / "_project").read_text() == "code"


def test_an_interrupted_preparation_leaves_nothing_in_the_next(tmp_path: Path) -> None:
    folder = attempt_folder(tmp_path, KEY)
    folder.prepare([], has_outputs=True)
    (folder.results / "half").touch()

    folder.prepare([], has_outputs=True)

    assert list(folder.results.iterdir()) == []


def test_what_is_remembered_is_there_for_a_later_daemon(tmp_path: Path) -> None:
    folder = attempt_folder(tmp_path, KEY)
    folder.prepare([], has_outputs=False)
    assert folder.note() == AttemptNote()

    folder.remember(AttemptNote(outputs=("model",), is_sandboxed=True))

    assert attempt_folder(tmp_path, KEY).note() == AttemptNote(outputs=("model",), is_sandboxed=True)


def test_removing_takes_everything_but_the_attempts_of_others(tmp_path: Path) -> None:
    other = attempt_folder(tmp_path, AttemptKey("run", "other", 1))
    other.prepare([], has_outputs=False)
    folder = attempt_folder(tmp_path, KEY)
    folder.prepare([], has_outputs=True)
    (folder.tmp / "a" / "b").mkdir(parents=True)
    (folder.tmp / "a").chmod(0o000)

    assert not folder.remove_if_empty()
    folder.remove()

    assert not folder.tmp.exists()
    assert not folder.parts.exists()
    assert other.remove_if_empty()
    assert list((tmp_path / "attempts").iterdir()) == []


def nothing(_place: Path) -> None:
    pass


def a_full_folder(place: Path) -> None:
    (place / "kept").mkdir(parents=True)


def a_link(place: Path) -> None:
    place.symlink_to(place.parent, target_is_directory=True)


@pytest.mark.parametrize(
    ("there_is", "becomes"),
    [(nothing, True), (Path.mkdir, True), (a_full_folder, False), (Path.touch, False), (a_link, False)],
)
def test_a_spare_takes_the_place_of_nothing_that_anybody_has(
    tmp_path: Path, there_is: Callable[[Path], None], becomes: bool
) -> None:
    spare = attempt_folder(tmp_path, AttemptKey("run", "earlier", 1))
    spare.prepare([], has_outputs=False)
    folder = attempt_folder(tmp_path, KEY)
    there_is(folder.tmp)

    assert folder.become(spare) is becomes

    assert folder.is_as_made() is becomes
    assert spare.tmp.exists() is not becomes
    assert (folder.tmp / "kept").is_dir() is (there_is is a_full_folder)
    assert folder.tmp.is_symlink() is (there_is is a_link)
