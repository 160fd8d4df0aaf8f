"""Comparing looks at a folder."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemld.intake.snapshot import FileState, diff, is_document, settled

snapshots = st.dictionaries(
    st.sampled_from(["a.yaml", "b.yaml", "c.yaml", "d.yaml"]), st.integers(min_value=1, max_value=3)
).map(lambda sizes: {file: state(file, size) for file, size in sizes.items()})


def state(file: str, size: int = 1) -> FileState:
    return FileState(file=file, inode=1, size_bytes=size, mtime_ns=1, ctime_ns=1)


@pytest.mark.parametrize("file", ["a.yaml", "a.yml", "deep/er/a.yaml", "a b.yaml", "#1.yaml", "tmp.yaml"])
def test_yaml_files_in_any_folder_are_read(file: str) -> None:
    assert is_document(file)


@pytest.mark.parametrize(
    "file",
    [
        "a.txt", "a.yaml~", ".a.yaml", ".hidden/a.yaml", "sub/.git/a.yaml", ".#a.yaml", "#a.yaml#", "a.yaml.swp",
        ".a.yaml.swp", "a.yaml.tmp", "a.yaml.part", "4913", "a.yaml.bak", "old~/a.yaml", "A.YAML.txt", "",
    ],
)  # fmt: skip
def test_hidden_temporary_and_backup_files_are_not(file: str) -> None:
    assert not is_document(file)


@given(snapshots, snapshots)
def test_applying_a_difference_gives_the_later_look(
    before: dict[str, FileState], now: dict[str, FileState]
) -> None:
    changes = diff(before, now)

    kept = {file: found for file, found in before.items() if file not in (*changes.removed, *changes.changed)}
    news = {file: now[file] for file in (*changes.appeared, *changes.changed)}
    assert kept | news == now
    assert len({*changes.appeared, *changes.changed, *changes.removed}) == sum(
        map(len, (changes.appeared, changes.changed, changes.removed))
    )


def test_a_file_is_settled_when_two_looks_saw_the_same() -> None:
    assert settled({}, {}, {"a.yaml": state("a.yaml")}) == ()
    assert settled({}, {"a.yaml": state("a.yaml")}, {"a.yaml": state("a.yaml")}) == ("a.yaml",)
    assert settled({}, {"a.yaml": state("a.yaml")}, {"a.yaml": state("a.yaml", 2)}) == ()


def test_a_file_that_rested_long_enough_before_the_first_look_is_settled() -> None:
    assert settled({}, {}, {"a.yaml": state("a.yaml")}, rested_since_ns=2) == ("a.yaml",)
    assert settled({}, {}, {"a.yaml": state("a.yaml")}, rested_since_ns=1) == ()


@given(snapshots, snapshots, snapshots)
def test_what_was_taken_is_not_settled_again(
    taken: dict[str, FileState], earlier: dict[str, FileState], now: dict[str, FileState]
) -> None:
    ready = settled(taken, earlier, now)

    assert all(taken.get(file) != now[file] and earlier[file] == now[file] for file in ready)
