"""The watcher on a real folder."""

from __future__ import annotations

import itertools
import math
import os
import statistics
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from fusemld.intake import watcher as module
from fusemld.intake.reading import Look, gone, look, take
from fusemld.intake.snapshot import Scan
from fusemld.intake.watcher import Timing, Watcher
from fusemld.spec.documents import Parsed, read
from tests.acceptance.mishaps import few_descriptors

DEADLINE_S = 10.0
QUICK = Timing(rescan_s=0.05, removal_s=0.1, pause_s=0.05, retry_s=0.05)
SLOW = Timing(rescan_s=3600.0, removal_s=0.1, pause_s=0.05, retry_s=0.05)
EXTENSION = "id: {id}\nservices: []\n"


def parse(data: bytes, path: Path) -> Parsed:
    return read(data, file=path)


class Seen:
    """What a folder declares, as the scans tell."""

    def __init__(self) -> None:
        self.scans: list[Scan] = []
        self.ids: dict[str, list[str]] = {}
        self.problems: dict[str, str] = {}
        self.available = True
        self.warning = ""
        self._news = anyio.Event()

    async def on_scan(self, scan: Scan) -> None:
        self.scans.append(scan)
        self.available, self.warning = scan.available, scan.warning
        for file in scan.removed:
            self.ids.pop(file, None)
        for report in scan.files:
            self.problems.pop(report.file, None)
            if report.readable:
                self.ids[report.file] = [document.name for document in report.documents]
            for problem in report.problems:
                self.problems[report.file] = problem.message
        self._news.set()

    async def until(self, claim: Callable[[], bool]) -> None:
        with anyio.fail_after(DEADLINE_S):
            while not claim():
                self._news = anyio.Event()
                await self._news.wait()

    async def file(self, name: str) -> None:
        await self.until(lambda: name in self.ids)


@asynccontextmanager
async def watching(
    folder: Path, timing: Timing = SLOW, known: tuple[str, ...] = (), identity: str = ""
) -> AsyncIterator[Seen]:
    seen = Seen()
    async with anyio.create_task_group() as group:
        watcher = Watcher(folder, parse, known=known, identity=identity, timing=timing)
        await group.start(watcher.run, seen.on_scan)
        try:
            yield seen
        finally:
            group.cancel_scope.cancel()


def write(folder: Path, file: str, id_: str = "x") -> None:
    (folder / file).write_text(EXTENSION.format(id=id_))


async def test_files_that_are_there_are_reported_at_once_and_in_one_scan(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "a")
    write(tmp_path, "b.yaml", "b")

    async with watching(tmp_path, known=("gone.yaml",)) as seen:
        assert len(seen.scans) == 1
        assert seen.ids == {"a.yaml": ["a"], "b.yaml": ["b"]}
        assert seen.scans[0].removed == ("gone.yaml",)


async def test_a_file_is_reported_within_50_ms_of_its_close(tmp_path: Path) -> None:
    async with watching(tmp_path) as seen:
        delays = []
        for number in range(20):
            write(tmp_path, f"{number}.yaml", f"x{number}")
            closed = time.monotonic()
            await seen.file(f"{number}.yaml")
            delays.append(time.monotonic() - closed)

    assert statistics.median(delays) < 0.05


async def test_a_half_written_file_is_not_read_until_it_is_closed(tmp_path: Path) -> None:
    async with watching(tmp_path, QUICK) as seen:
        with (tmp_path / "a.yaml").open("w") as file:
            file.write(EXTENSION.format(id="half"))
            file.flush()
            await seen.until(lambda: "a.yaml" in seen.problems)
            assert "still has it open for writing" in seen.problems["a.yaml"]
            assert "a.yaml" not in seen.ids
            file.write("description: whole\n")
        await seen.until(lambda: seen.ids.get("a.yaml") == ["half"])
        assert "a.yaml" not in seen.problems


async def test_a_file_renamed_into_place_is_taken(tmp_path: Path) -> None:
    async with watching(tmp_path) as seen:
        write(tmp_path, "a.yaml.tmp")
        (tmp_path / "a.yaml.tmp").rename(tmp_path / "a.yaml")

        await seen.until(lambda: seen.ids == {"a.yaml": ["x"]})


async def test_a_rename_is_reported_as_one(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml")
    async with watching(tmp_path) as seen:
        (tmp_path / "a.yaml").rename(tmp_path / "b.yaml")

        await seen.until(lambda: "b.yaml" in seen.ids)
        assert seen.scans[-1].removed == ("a.yaml",)


async def test_saving_like_an_editor_is_not_a_removal(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "one")
    async with watching(tmp_path) as seen:
        (tmp_path / "a.yaml").rename(tmp_path / "a.yaml~")
        write(tmp_path, "a.yaml", "two")

        await seen.until(lambda: seen.ids == {"a.yaml": ["two"]})
        write(tmp_path, "b.yaml")
        await seen.until(lambda: "b.yaml" in seen.ids)
        assert not any(scan.removed for scan in seen.scans)


async def test_touching_and_rewriting_the_same_bytes_is_no_news(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml")
    async with watching(tmp_path) as seen:
        os.utime(tmp_path / "a.yaml")
        write(tmp_path, "a.yaml")
        write(tmp_path, "b.yaml")

        await seen.until(lambda: "b.yaml" in seen.ids)
        assert [report.file for scan in seen.scans for report in scan.files] == ["a.yaml", "b.yaml"]


async def test_folders_made_later_are_watched_too_and_moved_ones_followed(tmp_path: Path) -> None:
    async with watching(tmp_path) as seen:
        (tmp_path / "sub/deep").mkdir(parents=True)
        write(tmp_path, "sub/deep/a.yaml")
        await seen.until(lambda: "sub/deep/a.yaml" in seen.ids)

        (tmp_path / "sub").rename(tmp_path / "other")
        await seen.until(lambda: set(seen.ids) == {"other/deep/a.yaml"})
        write(tmp_path, "other/deep/b.yaml")
        await seen.until(lambda: "other/deep/b.yaml" in seen.ids)


async def test_a_deleted_file_is_reported(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml")
    async with watching(tmp_path) as seen:
        (tmp_path / "a.yaml").unlink()

        await seen.until(lambda: seen.ids == {})


async def test_a_folder_that_vanishes_removes_nothing_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    write(inbox, "a.yaml")
    async with watching(inbox) as seen:
        inbox.rename(tmp_path / "away")
        await seen.until(lambda: not seen.available)
        write(tmp_path / "away", "b.yaml", "b")

        (tmp_path / "away").rename(inbox)
        await seen.until(lambda: seen.available and "b.yaml" in seen.ids)
        write(inbox, "c.yaml", "c")
        await seen.until(lambda: "c.yaml" in seen.ids)
        assert not any(scan.removed for scan in seen.scans)


async def test_an_empty_folder_in_the_place_of_the_watched_one_is_a_share_that_is_not_mounted(
    tmp_path: Path,
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    write(inbox, "a.yaml")
    async with watching(inbox) as seen:
        inbox.rename(tmp_path / "away")
        inbox.mkdir()

        await seen.until(lambda: not seen.available)
        assert seen.ids == {"a.yaml": ["x"]}


async def test_a_folder_that_comes_back_empty_was_emptied(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    write(inbox, "a.yaml")
    async with watching(inbox) as seen:
        inbox.rename(tmp_path / "away")
        await seen.until(lambda: not seen.available)
        (tmp_path / "away/a.yaml").unlink()

        (tmp_path / "away").rename(inbox)
        await seen.until(lambda: seen.available and seen.ids == {})


async def test_a_folder_that_was_emptied_while_nobody_looked_is_told_from_another_one(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml")
    async with watching(tmp_path) as seen:
        identity = seen.scans[-1].identity
    (tmp_path / "a.yaml").unlink()

    async with watching(tmp_path, known=("a.yaml",), identity=identity) as seen:
        await seen.until(lambda: any(scan.removed == ("a.yaml",) for scan in seen.scans))
        assert seen.available

    (tmp_path / "other").mkdir()
    async with watching(tmp_path / "other", known=("a.yaml",), identity=identity) as seen:
        assert not seen.available
        assert not any(scan.removed for scan in seen.scans)


async def test_a_folder_that_is_missing_at_the_start_is_waited_for(tmp_path: Path) -> None:
    async with watching(tmp_path / "inbox", known=("a.yaml",)) as seen:
        assert not seen.available

        (tmp_path / "inbox").mkdir()
        write(tmp_path / "inbox", "b.yaml")
        await seen.until(lambda: seen.available and "b.yaml" in seen.ids)


async def test_a_restless_file_does_not_starve_others(tmp_path: Path) -> None:
    async with watching(tmp_path) as seen, anyio.create_task_group() as group:

        async def rewrite() -> None:
            for number in range(10_000):
                write(tmp_path, "restless.yaml", f"n{number}")
                await anyio.sleep(0.002)

        group.start_soon(rewrite)
        for number in range(10):
            write(tmp_path, f"{number}.yaml")
            await seen.file(f"{number}.yaml")
        group.cancel_scope.cancel()


async def test_a_restless_file_that_is_costly_to_read_rests_in_between(tmp_path: Path) -> None:
    cost_s = 0.03
    began: list[float] = []

    def read_costly(data: bytes, path: Path) -> Parsed:
        began.append(time.monotonic())
        until = time.thread_time() + cost_s
        while time.thread_time() < until:
            pass
        return parse(data, path)

    seen = Seen()
    async with anyio.create_task_group() as group:
        await group.start(Watcher(tmp_path, read_costly, timing=SLOW).run, seen.on_scan)
        for name in ("a", "b", "c"):
            write(tmp_path, "restless.yaml", name)
            await seen.until(partial(lambda wanted: seen.ids.get("restless.yaml") == [wanted], name))
        group.cancel_scope.cancel()

    assert all(b - a > module.REST * cost_s for a, b in itertools.pairwise(began))


async def test_without_inotify_looks_find_everything_and_a_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(module, "Inotify", refuse)
    async with watching(tmp_path, QUICK) as seen:
        assert seen.scans[-1].warning.startswith("cannot watch for changes: Too many open files")

        write(tmp_path, "a.yaml")
        await seen.until(lambda: seen.ids == {"a.yaml": ["x"]})
        (tmp_path / "a.yaml").unlink()
        await seen.until(lambda: seen.ids == {})


async def test_a_file_for_which_there_is_no_descriptor_is_read_later(tmp_path: Path) -> None:
    async with watching(tmp_path, QUICK) as seen:
        write(tmp_path, "a.tmp", "a")
        with few_descriptors([os.getpid()]):
            (tmp_path / "a.tmp").rename(tmp_path / "a.yaml")
            await seen.until(lambda: not seen.available)
        await seen.file("a.yaml")

        assert all(report.readable for scan in seen.scans for report in scan.files)


async def test_a_thousand_files_at_once_are_all_seen(tmp_path: Path) -> None:
    async with watching(tmp_path) as seen:
        for number in range(1000):
            write(tmp_path, f"{number}.yaml", f"x{number}")

        await seen.until(lambda: len(seen.ids) == 1000)


async def test_what_is_gone_before_it_is_read_leaves_nothing(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path, parse, timing=QUICK)
    seen = Seen()
    async with anyio.create_task_group() as group:
        await group.start(watcher.run, seen.on_scan)
        gone = {f"{number}.yaml" for number in range(100)}
        for file in gone:
            write(tmp_path, file)
            (tmp_path / file).unlink()

        with anyio.fail_after(DEADLINE_S):
            for number in itertools.count():
                write(tmp_path, f"later-{number}.yaml", f"x{number}")
                await seen.file(f"later-{number}.yaml")
                if not gone & watcher._not_before.keys():
                    break
        group.cancel_scope.cancel()

    assert not gone & seen.ids.keys()


async def test_a_file_at_which_an_error_of_our_own_shows_is_refused_and_no_other(tmp_path: Path) -> None:
    def fails(data: bytes, path: Path) -> Parsed:
        if b"boom" in data:
            raise RecursionError("too deep")
        return parse(data, path)

    seen = Seen()
    async with anyio.create_task_group() as group:
        await group.start(Watcher(tmp_path, fails, timing=SLOW).run, seen.on_scan)
        write(tmp_path, "a.yaml", "boom")
        await seen.until(lambda: "a.yaml" in seen.problems)
        refusal = seen.problems["a.yaml"]
        write(tmp_path, "b.yaml", "b")
        await seen.file("b.yaml")
        write(tmp_path, "a.yaml", "repaired")
        await seen.until(lambda: seen.ids["a.yaml"] == ["repaired"])
        group.cancel_scope.cancel()

    assert refusal.endswith("because of an error of fusemld's own: RecursionError: too deep")
    assert "a.yaml" not in seen.problems


async def test_it_can_be_seen_that_a_look_does_not_end_and_that_the_next_one_is_not_due_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()

    def waiting(folder: Path) -> Look:
        answers.wait(DEADLINE_S)
        return look(folder)

    monkeypatch.setattr(module, "look", waiting)
    watcher, seen = Watcher(tmp_path, parse, timing=SLOW), Seen()
    async with anyio.create_task_group() as group:
        group.start_soon(watcher.run, seen.on_scan)
        while not watcher.progress.doing:
            await anyio.lowlevel.checkpoint()
        doing, due_at, now = watcher.progress.doing, watcher.progress.due_at, time.monotonic()
        answers.set()
        await seen.until(lambda: bool(seen.scans))
        while watcher.progress.due_at == math.inf:
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()

    assert doing == "looking into the watched folder"
    assert due_at <= now
    assert watcher.progress.doing == ""
    assert now < watcher.progress.due_at <= time.monotonic() + SLOW.rescan_s


async def test_a_file_system_that_does_not_say_whether_a_file_is_gone_holds_up_the_watcher_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()

    def waiting(folder: Path, identity: str, files: Iterable[str]) -> list[str] | None:
        answers.wait(DEADLINE_S)
        return gone(folder, identity, files)

    monkeypatch.setattr(module, "gone", waiting)
    (tmp_path / "a.yaml").write_text("one")
    watcher, seen = Watcher(tmp_path, parse, timing=SLOW), Seen()
    async with anyio.create_task_group() as group:
        await group.start(watcher.run, seen.on_scan)
        (tmp_path / "a.yaml").unlink()
        with anyio.fail_after(DEADLINE_S):
            while watcher.progress.doing != "looking for files that seem to be gone":
                await anyio.lowlevel.checkpoint()
        answers.set()
        await seen.until(lambda: any(scan.removed for scan in seen.scans))
        group.cancel_scope.cancel()

    assert [scan.removed for scan in seen.scans if scan.removed] == [("a.yaml",)]


async def test_a_folder_that_is_away_and_what_is_told_of_it_are_no_work_that_does_not_end(tmp_path: Path) -> None:
    watcher, told = Watcher(tmp_path / "away", parse, timing=SLOW), anyio.Event()

    async def never_taken_in(scan: Scan) -> None:
        assert not scan.available
        told.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(watcher.run, never_taken_in)
        await told.wait()
        group.cancel_scope.cancel()

    assert (watcher.progress.doing, watcher.progress.due_at) == ("", math.inf)


@pytest.fixture
def dead_share(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Reading a file whose name begins with `hangs` waits until the event is set."""
    answers = threading.Event()

    def waiting(folder: Path, file: str, *args: object, **options: object) -> object:
        if file.startswith("hangs"):
            answers.wait()
        return take(folder, file, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "take", waiting)
    yield answers
    answers.set()


HASTY = Timing(rescan_s=0.05, removal_s=0.1, pause_s=0.05, retry_s=0.05, hang_s=0.2)


async def test_files_that_hang_are_told_and_do_not_keep_others_from_being_read(
    tmp_path: Path, dead_share: threading.Event
) -> None:
    async with watching(tmp_path, HASTY) as seen:
        for number in range(module.READERS):
            write(tmp_path, f"hangs-{number}.yaml", f"x{number}")
        await seen.until(lambda: "and 1 more" in seen.warning)
        write(tmp_path, "good.yaml")
        await seen.file("good.yaml")
        warning = seen.warning
        dead_share.set()
        await seen.until(lambda: len(seen.ids) == module.READERS + 1 and not seen.warning)

    assert warning == (
        "cannot read hangs-0.yaml, hangs-1.yaml, hangs-2.yaml and 1 more: no answer for 0.2 s; "
        "is the disk or network share that has them there?"
    )


async def test_a_file_that_hangs_at_the_start_does_not_keep_the_daemon_from_starting(
    tmp_path: Path, dead_share: threading.Event
) -> None:
    write(tmp_path, "hangs.yaml")
    write(tmp_path, "good.yaml", "good")

    async with watching(tmp_path, HASTY) as seen:
        assert seen.ids == {"good.yaml": ["good"]}
        assert "cannot read hangs.yaml" in seen.warning


async def test_more_files_that_hang_than_readers_can_be_given_are_told_as_such(
    tmp_path: Path, dead_share: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READERS_AT_MOST", module.READERS)
    for number in range(module.READERS):
        write(tmp_path, f"hangs-{number}.yaml", f"x{number}")

    async with watching(tmp_path, HASTY) as seen:
        assert seen.warning.endswith(
            "is the disk or network share that has them there?; no other file can be read"
        )
