"""Which files a watcher need not read, or parse, again in its next life."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from fusemld.intake import watcher as module
from fusemld.intake.reading import take
from fusemld.intake.snapshot import Scan
from fusemld.intake.watcher import Timing, Watcher
from fusemld.model.document import RememberedFile
from fusemld.spec.documents import Parsed, read

QUICK = Timing(rescan_s=0.05, removal_s=0.1, pause_s=0.01, retry_s=0.05)
RESTED_NS = 300_000_000


class Life:
    """One life of a watcher: the names of files that were opened, those that were reported, and what is to be
    remembered of them."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.reported: list[str] = []
        self.remembered: dict[str, RememberedFile] = {}
        self._news = anyio.Event()

    async def on_scan(self, scan: Scan) -> None:
        self.reported += [report.file for report in scan.files]
        for report in scan.files:
            self.remembered.pop(report.file, None)
        self.remembered |= {file.path: file for file in scan.taken}
        self._news.set()

    @property
    def at_rest(self) -> set[str]:
        return {name for name, file in self.remembered.items() if file.at_rest}

    async def until_at_rest(self, *files: str) -> None:
        with anyio.fail_after(10):
            while not set(files) <= self.at_rest:
                self._news = anyio.Event()
                await self._news.wait()


@pytest.fixture(autouse=True)
def short_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESTED_NS", RESTED_NS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def parse(data: bytes, path: Path) -> Parsed:
    return read(data, file=path)


@asynccontextmanager
async def watching(
    folder: Path, monkeypatch: pytest.MonkeyPatch, remembered: Iterable[RememberedFile] = ()
) -> AsyncIterator[Life]:
    life, remembered = Life(), tuple(remembered)

    def noting(folder: Path, file: str, *args: object, **kwargs: object) -> object:
        life.opened.append(file)
        return take(folder, file, *args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(module, "take", noting)
        watcher = Watcher(
            folder, parse, known=[file.path for file in remembered], remembered=remembered, timing=QUICK
        )
        async with anyio.create_task_group() as group:
            await group.start(watcher.run, life.on_scan)
            yield life
            group.cancel_scope.cancel()


def write(folder: Path, name: str, text: str = "x") -> Path:
    file = folder / name
    file.write_text(f"id: {text}\nservices: []\n")
    return file


async def test_a_file_that_was_just_written_is_read_again_before_it_counts_as_known(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watching(folder, monkeypatch) as life:
        write(folder, "a.yaml")

        await life.until_at_rest("a.yaml")

    assert life.reported == ["a.yaml"]
    assert life.opened.count("a.yaml") >= 2
    assert life.remembered["a.yaml"].ctime_ns == (folder / "a.yaml").stat().st_ctime_ns


async def test_what_was_read_too_soon_is_opened_by_the_next_life_and_is_no_news(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watching(folder, monkeypatch) as first:
        same, other = write(folder, "same.yaml"), write(folder, "other.yaml")
        with anyio.fail_after(10):
            while len(first.remembered) < 2:
                await anyio.lowlevel.checkpoint()
        remembered = tuple(first.remembered.values())
    assert not any(file.at_rest for file in remembered)
    for file, name in ((same, "x"), (other, "y")):
        before = file.stat()
        file.write_text(f"id: {name}\nservices: []\n")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    async with watching(folder, monkeypatch, remembered) as second:
        await second.until_at_rest("same.yaml", "other.yaml")

    assert set(second.opened) == {"same.yaml", "other.yaml"}
    assert second.reported == ["other.yaml"]


async def test_the_next_life_opens_only_what_does_not_look_as_it_did(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, "same.yaml", "same")
    write(folder, "other.yaml", "other")
    async with watching(folder, monkeypatch) as first:
        await first.until_at_rest("same.yaml", "other.yaml")
    write(folder, "other.yaml", "changed")

    async with watching(folder, monkeypatch, first.remembered.values()) as second:
        await second.until_at_rest("other.yaml")

    assert second.reported == ["other.yaml"]
    assert set(second.opened) == {"other.yaml"}


async def test_another_content_of_the_same_size_and_time_is_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(folder, "a.yaml", "one")
    async with watching(folder, monkeypatch) as first:
        await first.until_at_rest("a.yaml")
    before = file.stat()
    with file.open("r+") as opened:
        opened.write("id: two\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    now = file.stat()
    assert (now.st_size, now.st_mtime_ns, now.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)

    async with watching(folder, monkeypatch, first.remembered.values()) as second:
        await second.until_at_rest("a.yaml")

    assert second.reported == ["a.yaml"]


async def test_a_file_that_was_only_touched_is_opened_and_is_no_news(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(folder, "a.yaml")
    async with watching(folder, monkeypatch) as first:
        await first.until_at_rest("a.yaml")
    file.touch()

    async with watching(folder, monkeypatch, first.remembered.values()) as second:
        await second.until_at_rest("a.yaml")

    assert second.reported == []
    assert second.remembered["a.yaml"].mark == first.remembered["a.yaml"].mark
    assert second.remembered["a.yaml"] != first.remembered["a.yaml"]


async def test_a_file_that_is_opened_for_writing_before_its_second_reading_stays_as_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watching(folder, monkeypatch) as life:
        file = write(folder, "a.yaml")
        with anyio.fail_after(10):
            while "a.yaml" not in life.reported:
                await anyio.lowlevel.checkpoint()
        with file.open("a"):
            write(folder, "b.yaml")
            await life.until_at_rest("b.yaml")
            early = life.at_rest
        await life.until_at_rest("a.yaml")

    assert early == {"b.yaml"}
    assert life.reported == ["a.yaml", "b.yaml"]
