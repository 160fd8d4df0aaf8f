from __future__ import annotations

import base64
import random
import stat
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemld.executors.kubernetes.bundles import (
    CHUNK_BYTES,
    UNPACK,
    Entry,
    bundle,
    config_maps,
    pack,
    sources,
)
from fusemld.executors.kubernetes.delivery import entries
from fusemld.executors.kubernetes.statuses import unpacked_config_maps

Shell = Callable[..., "subprocess.CompletedProcess[bytes]"]
NO_LIMIT = 1 << 30
TREE = (
    Entry(path="README.md", content=b"read me\n"),
    Entry(path="bin"),
    Entry(path="bin/run", content=b"#!/bin/sh\necho it runs\n", is_executable=True),
    Entry(path="deep/" * 30 + "x"),
    Entry(path="deep/" * 30 + "x/long-" + "name" * 40, content=b"far down"),
    Entry(path="latest", target="bin/run"),
    Entry(path="umläut \udcff", content=b"odd name"),
    Entry(path="zero", content=b""),
)


def packed(*entries: Entry) -> bytes:
    found = pack(entries, NO_LIMIT)
    assert found is not None
    return found


def noise(size: int) -> bytes:
    return random.Random(0).randbytes(size)


def lay_out(folder: Path, content: bytes) -> tuple[Path, str]:
    """What the volume of the init container holds, and the digest."""
    folder.mkdir()
    known = bundle(content, "one")
    by_name = {one["metadata"]["name"]: one["binaryData"] for one in config_maps(content, "one", "runs")}
    for source in sources(known, "0"):
        item = source["configMap"]["items"][0]
        path = folder / item["path"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(base64.b64decode(by_name[source["configMap"]["name"]][item["key"]]))
    return folder / "0", known.sha256


@given(st.lists(st.binary(max_size=200)))
def test_the_same_content_gives_the_same_bytes(contents: list[bytes]) -> None:
    entries = [Entry(path=f"f{number}", content=content) for number, content in enumerate(contents)]

    assert packed(*entries) == packed(*entries)


def test_other_content_other_rights_and_other_links_give_other_names() -> None:
    trees = (
        Entry(path="a", content=b"1"),
        Entry(path="a", content=b"2"),
        Entry(path="a", content=b"1", is_executable=True),
        Entry(path="a", target="1"),
        Entry(path="a"),
    )

    assert len({bundle(packed(tree), "one").names for tree in trees}) == len(trees)


def test_daemons_do_not_share_config_maps() -> None:
    assert bundle(packed(*TREE), "one").names != bundle(packed(*TREE), "two").names


def test_nothing_more_is_packed_once_it_is_too_large() -> None:
    read = 0

    def many() -> object:
        nonlocal read
        for number in range(100):
            read += 1
            yield Entry(path=str(number), content=noise(100_000))

    assert pack(many(), 1_000_000) is None  # type: ignore[arg-type] # a generator
    assert read < 20


def test_content_in_a_file_is_packed_as_content_in_memory(tmp_path: Path) -> None:
    content = {name: noise(size) for name, size in (("a", 0), ("b", 511), ("c", 512), ("d", 100_001))}
    for name, written in content.items():
        (tmp_path / name).write_bytes(written)

    assert packed(*(Entry(path=name, content=tmp_path / name) for name in content)) == packed(
        *(Entry(path=name, content=written) for name, written in content.items())
    )


@pytest.mark.parametrize(
    ("head", "is_packed"),
    [pytest.param(noise(2_000_000), False, id="too large"), pytest.param(b"", True, id="packs well")],
)
def test_a_large_file_is_never_in_memory_as_a_whole(tmp_path: Path, head: bytes, is_packed: bool) -> None:
    size_bytes = 64 * 1024 * 1024
    with (tmp_path / "large").open("wb") as file:
        file.write(head)
        file.truncate(size_bytes)

    tracemalloc.start()
    try:
        found = pack(entries(tmp_path), 1_000_000)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (found is not None) == is_packed
    assert peak_bytes < 5_000_000


def test_every_config_map_is_immutable_and_small_enough() -> None:
    content = noise(2 * CHUNK_BYTES + 1)

    made = config_maps(content, "one", "runs")

    assert [one["metadata"]["name"] for one in made] == list(bundle(content, "one").names)
    assert len(made) == 3
    assert all(one["immutable"] and len(one["binaryData"]["part"]) <= 1024 * 1024 for one in made)
    assert b"".join(base64.b64decode(one["binaryData"]["part"]) for one in made) == content


def test_a_pod_says_which_config_maps_it_uses() -> None:
    known = bundle(noise(CHUNK_BYTES + 1), "one")
    volumes = [{"name": "x", "emptyDir": {}}, {"name": "bundles", "projected": {"sources": sources(known, "0")}}]

    assert unpacked_config_maps({"spec": {"volumes": volumes}}) == set(known.names)
    assert unpacked_config_maps({"spec": {}}) == set()


def test_the_script_unpacks_what_was_packed(shell: Shell, tmp_path: Path) -> None:
    pieces, sha256 = lay_out(tmp_path / "bundles", packed(*TREE, Entry(path="zz", content=noise(CHUNK_BYTES))))
    target = tmp_path / "target"
    target.mkdir()

    done = shell(UNPACK, str(pieces), sha256, str(target), "my project", "my codeset")

    assert (done.returncode, done.stderr) == (0, b"")
    assert (target / "README.md").read_bytes() == b"read me\n"
    assert (target / "zz").read_bytes() == noise(CHUNK_BYTES)
    assert (target / "umläut \udcff").read_bytes() == b"odd name"
    assert (target / TREE[4].path).read_bytes() == b"far down"
    assert (target / "latest").readlink() == Path("bin/run")
    assert subprocess.run([target / "latest"], capture_output=True, check=True).stdout == b"it runs\n"
    assert (target / ".fuseml/_org").read_text() == "my project"
    assert (target / ".fuseml/_project").read_text() == "my codeset"


def test_everybody_may_write_what_was_unpacked(shell: Shell, tmp_path: Path) -> None:
    pieces, sha256 = lay_out(tmp_path / "bundles", packed(*TREE))
    target = tmp_path / "target"
    target.mkdir()

    shell(UNPACK, str(pieces), sha256, str(target), "p", "c")

    modes = {path.relative_to(target): stat.S_IMODE(path.lstat().st_mode) for path in target.rglob("*")}
    assert modes[Path("bin")] == modes[Path("bin/run")] == modes[Path(".fuseml")] == 0o777
    assert modes[Path("README.md")] == modes[Path(".fuseml/_org")] == 0o666


def test_several_codesets_are_unpacked_at_once(shell: Shell, tmp_path: Path) -> None:
    arguments: list[str] = []
    for number in range(2):
        pieces, sha256 = lay_out(tmp_path / f"b{number}", packed(Entry(path="n", content=b"%d" % number)))
        (tmp_path / f"t{number}").mkdir()
        arguments += [str(pieces), sha256, str(tmp_path / f"t{number}"), "p", f"c{number}"]

    done = shell(UNPACK, *arguments)

    assert done.returncode == 0
    assert [(tmp_path / f"t{number}/n").read_bytes() for number in range(2)] == [b"0", b"1"]


def test_content_that_is_not_what_was_packed_is_refused(shell: Shell, tmp_path: Path) -> None:
    pieces, sha256 = lay_out(tmp_path / "bundles", packed(*TREE))
    piece = pieces / "00000"
    piece.write_bytes(piece.read_bytes()[:-10])
    target = tmp_path / "target"
    target.mkdir()

    done = shell(UNPACK, str(pieces), sha256, str(target), "p", "c")

    assert done.returncode == 1
    assert done.stderr == b"cannot unpack codeset p/c: its ConfigMaps do not hold what was packed\n"
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("missing", ["part", "folder"])
def test_missing_pieces_are_an_error(shell: Shell, tmp_path: Path, missing: str) -> None:
    pieces, sha256 = lay_out(tmp_path / "bundles", packed(*TREE))
    (pieces / "00000").unlink()
    if missing == "folder":
        pieces.rmdir()

    assert shell(UNPACK, str(pieces), sha256, str(tmp_path), "p", "c").returncode == 1
