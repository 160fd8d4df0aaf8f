from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fusemld.executors.process import own_log
from fusemld.executors.process.own_log import LIMIT_BYTES, shorten
from fusemld.executors.process.wire import keeper_folder

if TYPE_CHECKING:
    from tests.executors.process.conftest import HostFactory

LINE = b"%09d\n"


@pytest.mark.parametrize(
    ("lines", "left", "moved"),
    [
        (range(0), range(0), None),
        (range(10), range(10), None),
        (range(11), range(0), range(1, 11)),
        (range(100), range(0), range(90, 100)),
    ],
)
def test_the_end_of_a_long_log_is_put_aside_and_it_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: range, left: range, moved: range | None
) -> None:
    monkeypatch.setattr(own_log, "LIMIT_BYTES", 10 * len(LINE % 0))
    log, before = tmp_path / "keeper.log", tmp_path / "keeper.log.1"
    log.write_bytes(b"".join(LINE % number for number in lines))

    shorten(log)

    assert log.read_bytes() == b"".join(LINE % number for number in left)
    assert before.exists() == (moved is not None)
    assert moved is None or before.read_bytes() == b"".join(LINE % number for number in moved)


def test_a_log_that_is_not_there_or_cannot_be_moved_is_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "keeper.log"
    shorten(log)
    assert not log.exists()

    log.write_bytes(bytes(LIMIT_BYTES + 1))
    (tmp_path / "keeper.log.1").mkdir()
    shorten(log)

    assert log.stat().st_size == LIMIT_BYTES + 1


async def test_a_new_keeper_begins_its_log_anew_where_it_is_long(host: HostFactory, state: Path) -> None:
    folder = keeper_folder(state)
    folder.mkdir()
    (folder / "keeper.log").write_bytes(b"old\n" * (LIMIT_BYTES // 4 + 1))

    async with host() as opened:
        assert (await opened.shell("a", "exit 3")).exit_status == 3

    text = (folder / "keeper.log").read_text()
    assert "ready" in text
    assert "old" not in text
    assert (folder / "keeper.log.1").read_bytes() == b"old\n" * (LIMIT_BYTES // 4)
