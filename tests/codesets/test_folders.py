"""Trees of files: what counts, what is refused, and what happens when they change under the copy."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemld.codesets import folders
from fusemld.codesets.folders import copied, hashed, listing, remove
from fusemld.model.errors import ConflictError, InvalidInputError

LIMIT = 1024 * 1024

trees = st.dictionaries(st.sampled_from(["a", "b", "sub/a", "sub/deep/b"]), st.binary(max_size=64), max_size=4)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/a").write_text("a")
    (tmp_path / "tree/sub/run").write_text("b")
    (tmp_path / "tree/sub/run").chmod(0o755)
    (tmp_path / "tree/link").symlink_to("sub/run")
    return tmp_path / "tree"


def test_a_copy_has_the_digest_of_its_source(tree: Path, tmp_path: Path) -> None:
    content, _ = copied(tree, tmp_path / "copy", LIMIT)

    assert (
        content
        == hashed(tree, listing(tree, LIMIT))
        == hashed(tmp_path / "copy", listing(tmp_path / "copy", LIMIT))
    )
    assert content.size_bytes == 2
    assert (tmp_path / "copy/link").readlink() == Path("sub/run")


def test_paths_bytes_and_executability_count(tree: Path) -> None:
    def relink() -> None:
        (tree / "link").unlink()
        (tree / "link").symlink_to("c")

    changes: list[Callable[[], object]] = [
        partial((tree / "a").write_text, "A"),
        partial((tree / "a").rename, tree / "c"),
        partial((tree / "c").chmod, 0o755),
        (tree / "empty").mkdir,
        relink,
    ]
    digests = [hashed(tree, listing(tree, LIMIT)).digest]
    for change in changes:
        change()
        digests.append(hashed(tree, listing(tree, LIMIT)).digest)

    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "sub/../../outside"])
def test_a_link_that_leaves_the_tree_is_refused(tree: Path, target: str) -> None:
    (tree / "bad").symlink_to(target)

    with pytest.raises(InvalidInputError, match=r"the link bad -> .* leaves the codeset"):
        listing(tree, LIMIT)


def test_a_pipe_is_refused(tree: Path) -> None:
    os.mkfifo(tree / "pipe")

    with pytest.raises(InvalidInputError, match="pipe is neither file, folder nor link"):
        listing(tree, LIMIT)


def test_a_tree_that_changes_once_while_it_is_copied_is_copied_again(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_file = folders._copy_file
    changes = iter(["new content"])

    def disturbed(source: Path, target: Path) -> None:
        copy_file(source, target)
        for text in changes:
            (tree / "a").write_text(text)

    monkeypatch.setattr(folders, "_copy_file", disturbed)

    copied(tree, tmp_path / "copy", LIMIT)

    assert (tmp_path / "copy/a").read_text() == "new content"


def test_a_tree_that_never_rests_is_an_error_and_leaves_nothing(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_file = folders._copy_file

    def disturbed(source: Path, target: Path) -> None:
        copy_file(source, target)
        (tree / "log").open("a").close()
        os.truncate(tree / "log", (tree / "log").stat().st_size + 1)

    monkeypatch.setattr(folders, "_copy_file", disturbed)

    with pytest.raises(ConflictError, match="keep changing"):
        copied(tree, tmp_path / "copy", LIMIT)
    assert not (tmp_path / "copy").exists()


@given(trees, trees)
def test_equal_trees_and_only_they_have_equal_digests(
    tmp_path_factory: pytest.TempPathFactory, one: dict[str, bytes], two: dict[str, bytes]
) -> None:
    digests = []
    for files in (one, two):
        root = tmp_path_factory.mktemp("tree")
        for path, data in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        digests.append(hashed(root, listing(root, LIMIT)).digest)
        remove(root)

    assert (digests[0] == digests[1]) == (one == two)
