from __future__ import annotations

from pathlib import Path

import pytest

from fusemld.executors import durable_files


def test_a_file_is_replaced_as_a_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "made" / "namespace"

    durable_files.write(file, b"a longer first content")
    durable_files.write(file, b"second")

    assert file.read_bytes() == b"second"
    assert list(file.parent.iterdir()) == [file]
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_what_was_there_stays_where_the_new_content_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "boot"
    durable_files.write(file, b"first")
    (tmp_path / "boot.new").mkdir()

    with pytest.raises(OSError, match="directory"):
        durable_files.write(file, b"second")

    assert file.read_bytes() == b"first"
