"""Taking one file from a folder that others write to."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from fusemld.intake import reading
from fusemld.intake.reading import LIMIT_BYTES, Skipped, Taken, look, take
from fusemld.spec.documents import Parsed, read
from fusemld.spec.nodes import too_large
from tests.acceptance.mishaps import few_descriptors

EXTENSION = b"id: x\nservices: []\n"


def parse(data: bytes, path: Path) -> Parsed:
    return read(data, file=path)


def take_one(folder: Path, file: str, *, sure: bool = False, mark: str | None = None) -> Taken | Skipped:
    return take(folder, file, parse, sure=sure, mark=mark)


def message(result: Taken | Skipped) -> str:
    assert isinstance(result, Taken)
    assert not result.report.documents
    return result.report.problems[0].message


def test_a_closed_file_is_taken_with_its_owner(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(EXTENSION)

    result = take_one(tmp_path, "a.yaml")

    assert isinstance(result, Taken)
    assert [document.name for document in result.report.documents] == ["x"]
    assert result.report.owner
    assert result.state == look(tmp_path).files["a.yaml"]


def test_equal_bytes_have_an_equal_mark_and_are_not_parsed_again(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(EXTENSION)
    first = take_one(tmp_path, "a.yaml")
    assert isinstance(first, Taken)
    (tmp_path / "a.yaml").write_bytes(EXTENSION)

    again = take_one(tmp_path, "a.yaml", mark=first.mark)

    assert isinstance(again, Taken)
    assert again.mark == first.mark
    assert again.report.documents == ()


def test_a_file_that_is_open_for_writing_is_left_alone(tmp_path: Path) -> None:
    with (tmp_path / "a.yaml").open("wb") as writer:
        writer.write(EXTENSION)
        writer.flush()

        assert take_one(tmp_path, "a.yaml") is Skipped.OPEN
        assert take_one(tmp_path, "a.yaml", sure=True) is Skipped.OPEN
    assert isinstance(take_one(tmp_path, "a.yaml"), Taken)


def test_where_the_kernel_does_not_tell_only_a_sure_file_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_bytes(EXTENSION)
    monkeypatch.setattr(reading, "_is_being_written", lambda _: None)

    assert take_one(tmp_path, "a.yaml") is Skipped.UNSURE
    assert isinstance(take_one(tmp_path, "a.yaml", sure=True), Taken)


def test_a_file_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "a.yaml").open("wb") as file:
        file.truncate(2 * LIMIT_BYTES)

    assert message(take_one(tmp_path, "a.yaml")) == too_large(2 * LIMIT_BYTES)


def test_a_file_whose_name_is_not_utf8_is_refused_under_a_name_that_can_be_shown(tmp_path: Path) -> None:
    file = os.fsdecode(b"caf\xe9.yaml")
    (tmp_path / file).write_text("a: 1\n")

    taken = take_one(tmp_path, file)

    assert isinstance(taken, Taken)
    assert taken.report.file == "caf\\xe9.yaml"
    assert "not UTF-8; rename it" in message(taken)


def test_a_link_is_followed_within_the_folder_only(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    (inbox / "..data").mkdir(parents=True)
    (inbox / "..data/a.yaml").write_bytes(EXTENSION)
    (tmp_path / "secret.yaml").write_bytes(EXTENSION)
    (inbox / "inside.yaml").symlink_to("..data/a.yaml")
    (inbox / "outside.yaml").symlink_to(tmp_path / "secret.yaml")
    (inbox / "nowhere.yaml").symlink_to("missing")

    inside = take_one(inbox, "inside.yaml")

    assert isinstance(inside, Taken)
    assert inside.report.documents
    assert "leaves the watched folder" in message(take_one(inbox, "outside.yaml"))
    assert "leads nowhere" in message(take_one(inbox, "nowhere.yaml"))


def test_a_link_that_leads_back_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("b.yaml")
    (tmp_path / "b.yaml").symlink_to("a.yaml")

    assert message(take_one(tmp_path, "a.yaml")) == "refused: the link leads back to itself"


def test_a_file_at_which_an_error_of_our_own_shows_is_refused_with_it(tmp_path: Path) -> None:
    def fails(data: bytes, path: Path) -> Parsed:
        raise KeyError(path.name)

    (tmp_path / "a.yaml").write_bytes(EXTENSION)

    result = take(tmp_path, "a.yaml", fails, sure=True, mark=None)

    assert message(result) == "refused: it cannot be read because of an error of fusemld's own: KeyError: 'a.yaml'"
    assert isinstance(result, Taken)
    assert result.state == look(tmp_path).files["a.yaml"]


def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")

    assert "not a regular file" in message(take_one(tmp_path, "a.yaml"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(EXTENSION)
    (tmp_path / "a.yaml").chmod(0)

    result = take_one(tmp_path, "a.yaml")

    assert isinstance(result, Taken)
    assert not result.report.readable
    assert message(result) == "cannot read the file: Permission denied"


def test_a_file_for_which_there_is_no_descriptor_is_neither_taken_nor_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(EXTENSION)

    with few_descriptors([os.getpid()]):
        result = take_one(tmp_path, "a.yaml")

    assert result is Skipped.NOT_NOW


def test_a_file_that_is_gone_is_gone(tmp_path: Path) -> None:
    assert take_one(tmp_path, "a.yaml") is Skipped.GONE


def test_a_look_sees_documents_in_all_folders_but_hidden_ones(tmp_path: Path) -> None:
    write = partial(Path.write_bytes, data=EXTENSION)
    for folder in ("sub/deep", ".git"):
        (tmp_path / folder).mkdir(parents=True)
        write(tmp_path / folder / "a.yaml")
    write(tmp_path / "b.yml")
    (tmp_path / "loop").symlink_to(tmp_path)

    seen = look(tmp_path)

    assert set(seen.files) == {"b.yml", "sub/deep/a.yaml"}
    assert set(seen.folders) == {".", "sub", "sub/deep"}
