from __future__ import annotations

import resource
from pathlib import Path

import pytest

from fusemld.executors.process.journal import Claimed, Ended, Forgotten, Journal, Opened, Spawned
from fusemld.hooks.processes import ProcessEnded


def opened(path: Path) -> Journal:
    journal = Journal(path)
    journal.open()
    return journal


def claim(key: str) -> Claimed:
    return Claimed(key=key, at=1.0, log="/logs/x")


def test_what_was_committed_is_there_for_the_next_keeper(tmp_path: Path) -> None:
    journal = opened(tmp_path / "journal")
    journal.add(Opened(boot="b", marker="m"))
    journal.claim([claim("a"), claim("b"), claim("c")])
    journal.add(Spawned(key="b", at=2.0, pid=7, ticks=9), Forgotten(key="c"))
    journal.add(Ended(event=ProcessEnded(key="a", at=3.0, exit_status=0, outputs={"x": b"\xff"})))
    journal.commit()
    journal.close()

    again = opened(tmp_path / "journal")

    assert again.opened == Opened(boot="b", marker="m")
    assert set(again.entries) == {"a", "b"}
    assert again.entries["a"].ended is not None
    assert again.entries["a"].ended.event.outputs == {"x": b"\xff"}
    assert again.entries["b"].spawned == Spawned(key="b", at=2.0, pid=7, ticks=9)
    again.close()


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_torn_line_costs_only_itself(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal"
    journal = opened(path)
    journal.claim([claim("a")])
    journal.claim([claim("b")])
    journal.close()
    path.write_bytes(path.read_bytes()[:-cut])

    again = opened(path)
    again.claim([claim("c")])
    again.close()

    last = opened(path)
    assert set(last.entries) - {"b"} == {"a", "c"}
    last.close()


def test_claims_that_do_not_fit_on_the_disk_leave_nothing_in_the_journal(tmp_path: Path) -> None:
    journal = opened(tmp_path / "journal")
    journal.claim([claim("before")])
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "journal").stat().st_size + 100, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            journal.claim([claim(f"step/{number}") for number in range(10)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    journal.claim([claim("after")])
    journal.close()

    assert set(journal.entries) == {"before", "after"}
    again = opened(tmp_path / "journal")
    assert set(again.entries) == {"before", "after"}
    again.close()


def test_forgotten_keys_do_not_make_the_file_grow(tmp_path: Path) -> None:
    journal = opened(tmp_path / "journal")
    journal.add(Opened(boot="b", marker="m"))
    journal.claim([claim("stays")])
    for number in range(3000):
        journal.claim([claim(f"step/{number}")])
        journal.add(Forgotten(key=f"step/{number}"))
        journal.commit()
    journal.close()

    assert (tmp_path / "journal").stat().st_size < 200_000
    again = opened(tmp_path / "journal")
    assert set(again.entries) == {"stays"}
    assert again.opened == Opened(boot="b", marker="m")
    again.close()


def test_a_journal_that_cannot_be_written_anew_takes_claims_all_the_same(tmp_path: Path) -> None:
    journal = opened(tmp_path / "journal")
    (tmp_path / "journal.new").mkdir()
    for number in range(600):
        journal.claim([claim(f"k{number}")])
        journal.add(Forgotten(key=f"k{number}"))

    journal.claim([claim("a")])
    journal.close()

    again = opened(tmp_path / "journal")
    assert set(again.entries) == {"a"}
    again.close()
