"""Watching the folder: events are hints, looks are the truth, and digests decide what is news."""

from __future__ import annotations

import contextlib
import enum
import math
import stat
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup, TaskStatus
from anyio.to_thread import run_sync
from asyncinotify import Event, Inotify, Mask, Watch

from fusemld.intake.reading import Look, Skipped, Taken, gone, look, shown, still_open, take
from fusemld.intake.snapshot import (
    RESTED_NS,
    FileReport,
    FileState,
    Read,
    Scan,
    diff,
    is_document,
    is_ignored,
    settled,
)
from fusemld.model.document import RememberedFile
from fusemld.model.progress import Progress

log = structlog.get_logger(__name__)

T = TypeVar("T")
OnScan = Callable[[Scan], Awaitable[None]]

READERS = 4
READERS_AT_MOST = 20
"""Those that hang are replaced, but not without end: each keeps a thread."""
SHOWN = 3
REST = 10
"""A file that changed again is read again after so many times the processor time that reading it took, at most:"""
LONGEST_REST_S = 10.0
LOOKS_AT_NEW_FOLDERS = 3
HELD_OPEN = "held open"

MASK = (
    Mask.CLOSE_WRITE | Mask.CREATE | Mask.MOVE | Mask.DELETE | Mask.ATTRIB
    | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR | Mask.DONT_FOLLOW
)  # fmt: skip


class Hint(enum.IntEnum):
    """What is known of a file to read: it is as it was when it was read, too soon; a look saw it; two looks saw
    the same; its writer closed it."""

    RESTED = 0
    SEEN = 1
    UNCHANGED = 2
    CLOSED = 3


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """In seconds. `rescan_s` lies between two looks; `removal_s` is how long a file must be gone (editors save by
    renaming); `pause_s` lies between two readings of one file, so that a restless one cannot starve others. A
    reading that takes `hang_s` waits for a dead disk or network share: others go on without it, and it is told."""

    rescan_s: float = 10.0
    removal_s: float = 0.5
    pause_s: float = 0.1
    retry_s: float = 1.0
    hang_s: float = 30.0


class Watcher:
    """Watches `folder` with all folders below it. `known` are the files that an earlier life had seen: those that
    are gone meanwhile are reported as removed. Those among `remembered` are not parsed again while they are the
    same, and not even read if they were at rest and look the same.

    A file is taken when its writer closed it, when it was renamed into place, or when a look finds it news and
    the kernel says that nobody has it open for writing; where the kernel cannot say, when two looks found it
    unchanged. A folder that cannot be seen, or that was replaced by an empty one (a share that is not mounted), is
    unavailable: nothing is reported as removed. `identity` is that of the folder in which the known files were.
    """

    def __init__(
        self,
        folder: Path,
        read: Read,
        *,
        known: Iterable[str] = (),
        remembered: Iterable[RememberedFile] = (),
        identity: str = "",
        timing: Timing | None = None,
    ) -> None:
        self.progress = Progress()
        """Not that of what is told: `on_scan` has its own."""
        self._folder = folder
        self._read = read
        self._timing = timing or Timing()
        self._news = anyio.Event()
        self._taken: dict[str, FileState] = {}
        self._marks: dict[str, str] = dict.fromkeys(known, "")
        for file in remembered:
            if file.path in self._marks:
                self._marks[file.path] = file.mark
                if file.at_rest:
                    self._taken[file.path] = _state_of(file)
        self._young: set[str] = set()
        """Files that were read too soon after their last change."""
        self._earlier: dict[str, FileState] = {}
        self._waiting: dict[str, Hint] = {}
        self._reading: set[str] = set()
        self._results: dict[str, tuple[Hint, int, Taken | Skipped]] = {}
        self._readers = anyio.CapacityLimiter(READERS)
        self._threads = anyio.CapacityLimiter(math.inf)
        """As many as there are readers."""
        self._begun: dict[str, float] = {}
        """Since when readers are at work on files."""
        self._not_before: dict[str, float] = {}
        self._gone: dict[str, float] = {}
        self._next_look = 0.0
        self._looked = False
        self._identity = self._told_identity = identity
        self._unavailable = ""
        self._inotify: Inotify | None = None
        self._listening = anyio.CancelScope()
        self._watches: dict[str, Watch] = {}
        self._watch_problem = ""
        self._warning = ""
        """What the last look found."""
        self._reported: str | None = None

    async def run(self, on_scan: OnScan, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Never returns. Ready once the files that were there at the start are reported (or the folder is found
        unavailable). What `on_scan` raises ends the watcher."""
        async with anyio.create_task_group() as group:
            await self._work(group, on_scan, task_status)

    async def _work(self, group: TaskGroup, on_scan: OnScan, task_status: TaskStatus[None]) -> None:
        is_ready = False
        while True:
            self._news = anyio.Event()
            if time.monotonic() >= self._next_look:
                await self._look(group, on_scan)
            self._start_readings(group)
            hanging = self._hanging()
            self._readers.total_tokens = min(READERS + len(hanging), READERS_AT_MOST)
            is_read = self._reading <= hanging or len(hanging) >= READERS_AT_MOST
            if not self._unavailable and (is_ready or is_read):
                await self._report(on_scan, hanging)
            if not is_ready and (self._unavailable or is_read):
                is_ready = True
                task_status.started()
            idle_s = self._idle_s()
            self.progress.rest(idle_s)
            with anyio.move_on_after(idle_s):
                await self._news.wait()

    # Looking ----------------------------------------------------------------------------------------------------

    async def _look(self, group: TaskGroup, on_scan: OnScan) -> None:
        self._next_look = time.monotonic() + self._timing.rescan_s
        for _ in range(LOOKS_AT_NEW_FOLDERS):
            self.progress.work("looking into the watched folder")
            try:
                seen = await run_sync(look, self._folder, abandon_on_cancel=True)
            except OSError as error:
                await self._lost(f"cannot look into the watched folder: {error.strerror or error}", on_scan)
                return
            if self._is_replaced(seen):
                await self._lost("the watched folder is empty all at once: is its file system mounted?", on_scan)
                return
            if self._identity != seen.identity:
                self._stop_listening()
            self._identity = seen.identity
            if not self._watch_folders(group, seen.folders):
                break
        else:
            self._next_look = 0.0
        if self._unavailable:
            log.info("intake.available", folder=str(self._folder))
            self._unavailable = ""
        self._compare(seen)
        self._warning = self._watch_problem or "; ".join(
            f"cannot look into {shown(place)}: {cause}" for place, cause in seen.unreadable.items()
        )

    def _compare(self, seen: Look) -> None:
        now = time.monotonic()
        news = diff(self._taken, seen.files)
        self._not_before = {file: until for file, until in self._not_before.items() if until > now}
        unchanged = settled(
            self._taken,
            self._earlier,
            seen.files,
            rested_since_ns=int((time.time() - self._timing.rescan_s) * 1e9),
        )
        for file in (*news.appeared, *news.changed):
            if not self._is_being_taken(file, seen.files[file]):
                self._expect(file, Hint.UNCHANGED if file in unchanged else Hint.SEEN)
        for file in self._marks.keys() - seen.files.keys():
            if not any(PurePosixPath(file).is_relative_to(place) for place in seen.unreadable):
                self._gone.setdefault(file, now + self._timing.removal_s if self._looked else now)
        for file in tuple(self._young):
            state = self._taken.get(file)
            if state is None or state != seen.files.get(file):
                self._young.discard(file)
            elif _is_at_rest(state, time.time_ns()):
                self._young.discard(file)
                self._expect(file, Hint.RESTED)
        self._earlier = seen.files
        self._looked = True

    def _is_being_taken(self, file: str, state: FileState) -> bool:
        """Or was taken and waits to be reported: where reading everything takes longer than the time between two
        looks, each look would start it anew without end. What changes meanwhile, the next look sees."""
        _, _, result = self._results.get(file, (None, None, None))
        return file in self._reading or (isinstance(result, Taken) and result.state == state)

    def _is_replaced(self, seen: Look) -> bool:
        """A mount point without its file system is an empty folder, and another one than before."""
        if seen.files or len(seen.folders) > 1 or not self._marks:
            return False
        return self._identity != seen.identity

    async def _lost(self, cause: str, on_scan: OnScan) -> None:
        self._stop_listening()
        self._gone.clear()
        self._waiting.clear()
        self._next_look = time.monotonic() + min(self._timing.retry_s, self._timing.rescan_s)
        if cause != self._unavailable:
            self._unavailable = cause
            log.warning("intake.unavailable", folder=str(self._folder), cause=cause)
            self._reported = None
            self.progress.rest()
            await on_scan(Scan(available=False, warning=cause))

    # Reading ----------------------------------------------------------------------------------------------------

    def _ready_names(self) -> list[str]:
        now = time.monotonic()
        return [
            file for file in self._waiting if file not in self._reading and self._not_before.get(file, 0) <= now
        ]

    def _expect(self, file: str, hint: Hint) -> None:
        self._waiting[file] = max(hint, self._waiting.get(file, hint))

    def _start_readings(self, group: TaskGroup) -> None:
        for file in self._ready_names():
            hint = self._waiting.pop(file)
            self._reading.add(file)
            self._not_before[file] = time.monotonic() + self._timing.pause_s
            group.start_soon(self._take, file, hint, name=f"intake.read {file}")

    async def _take(self, file: str, hint: Hint) -> None:
        mark = self._marks.get(file)
        work = partial(take, self._folder, file, self._read, sure=hint is not Hint.SEEN, mark=mark)
        began_ns = time.time_ns()
        async with self._readers:
            self._begun[file] = time.monotonic()
            result, cost_s = await run_sync(_with_cost, work, abandon_on_cancel=True, limiter=self._threads)
            del self._begun[file]
        rest_s = min(REST * cost_s, LONGEST_REST_S)
        self._not_before[file] = max(self._not_before.get(file, 0.0), time.monotonic() + rest_s)
        self._results[file] = hint, began_ns, result
        self._reading.discard(file)
        self._news.set()

    def _hanging(self) -> set[str]:
        since = time.monotonic() - self._timing.hang_s
        return {file for file, begun in self._begun.items() if begun <= since}

    # Reporting --------------------------------------------------------------------------------------------------

    async def _report(self, on_scan: OnScan, hanging: set[str]) -> None:
        """Tell what was read and what is gone. A file that was renamed is reported as both in one scan."""
        reports: list[FileReport] = []
        read: list[RememberedFile] = []
        inodes: set[int] = set()
        results, self._results = self._results, {}
        for file, (hint, began_ns, result) in results.items():
            if isinstance(result, Taken):
                if result.mark != self._marks.get(file):
                    reports.append(result.report)
                    inodes.add(result.state.inode)
                self._taken[file], self._marks[file] = result.state, result.mark
                at_rest = _is_at_rest(result.state, began_ns)
                read.append(_remembered(result, at_rest))
                if not at_rest:
                    self._young.add(file)
            elif result in (Skipped.CHANGING, Skipped.NOT_NOW):
                self._next_look = min(self._next_look, time.monotonic() + self._timing.retry_s)
            elif result is Skipped.GONE and file in self._marks:
                self._gone.setdefault(file, time.monotonic() + self._timing.removal_s)
            elif result is Skipped.OPEN and hint is Hint.UNCHANGED and self._marks.get(file) != HELD_OPEN:
                reports.append(still_open(file))
                self._marks[file] = HELD_OPEN
        removed = await self._removals(inodes)
        warning = "; ".join(filter(None, (self._warning, self._hang_warning(hanging))))
        if warning and warning != self._reported:
            log.warning("intake.degraded", folder=str(self._folder), cause=warning)
        is_another = self._identity != self._told_identity
        if reports or removed or read or is_another or self._reported != warning:
            self._reported, self._told_identity = warning, self._identity
            scan = Scan(
                files=tuple(reports),
                removed=removed,
                taken=tuple(read),
                warning=warning,
                identity=self._identity,
            )
            self.progress.rest()
            await on_scan(scan)

    def _hang_warning(self, hanging: set[str]) -> str:
        if not hanging:
            return ""
        first = sorted(map(shown, hanging))[:SHOWN]
        more = f" and {len(hanging) - SHOWN} more" if len(hanging) > SHOWN else ""
        held_up = "; no other file can be read" if len(hanging) >= READERS_AT_MOST else ""
        return (
            f"cannot read {', '.join(first)}{more}: no answer for {self._timing.hang_s:g} s; "
            f"is the disk or network share that has them there?{held_up}"
        )

    async def _removals(self, inodes: set[int]) -> tuple[str, ...]:
        now = time.monotonic()
        due = {file: at for file, at in self._gone.items() if at <= now or self._inode(file) in inodes}
        if not due:
            return ()
        self.progress.work("looking for files that seem to be gone")
        missing = await run_sync(gone, self._folder, self._identity, due, abandon_on_cancel=True)
        if missing is None:
            self._next_look = now
            return ()
        for file, at in due.items():
            if self._gone.get(file) == at:
                del self._gone[file]
        for file in missing:
            for memory in (self._taken, self._marks, self._not_before):
                memory.pop(file, None)
        return tuple(map(shown, missing))

    def _inode(self, file: str) -> int | None:
        state = self._taken.get(file)
        return state.inode if state else None

    def _idle_s(self) -> float:
        now = time.monotonic()
        deadlines = [self._next_look, *self._gone.values()]
        deadlines += [hangs for begun in self._begun.values() if (hangs := begun + self._timing.hang_s) > now]
        deadlines += [self._not_before.get(file, 0.0) for file in self._waiting if file not in self._reading]
        return max(0.0, min(deadlines) - now)

    # Events -----------------------------------------------------------------------------------------------------

    def _watch_folders(self, group: TaskGroup, folders: tuple[str, ...]) -> bool:
        """Watch exactly these folders. True if there are new ones: something may have happened there before."""
        if self._inotify is None:
            try:
                self._inotify = Inotify(cache_size=100)
            except OSError as error:
                self._note_watch_problem(error)
                return False
            self._listening = anyio.CancelScope()
            group.start_soon(self._listen, self._inotify, self._listening, name="intake.events")
        self._watch_problem = ""
        for place in self._watches.keys() - set(folders):
            self._unwatch(place)
        is_new = False
        for place in folders:
            if place in self._watches:
                continue
            try:
                watch = self._inotify.add_watch(self._folder / place, MASK)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._note_watch_problem(error)
                break
            watch.path = self._folder / place
            self._watches[place] = watch
            is_new = True
        return is_new

    def _note_watch_problem(self, error: OSError) -> None:
        self._watch_problem = (
            f"cannot watch for changes: {error.strerror or error}; files are found by looking every "
            f"{self._timing.rescan_s:g} s (see /proc/sys/fs/inotify)"
        )

    def _unwatch(self, place: str) -> None:
        watch = self._watches.pop(place)
        with contextlib.suppress(OSError):
            if self._inotify is not None:
                self._inotify.rm_watch(watch)

    def _stop_listening(self) -> None:
        self._listening.cancel()
        self._inotify = None
        self._watches.clear()

    async def _listen(self, inotify: Inotify, scope: anyio.CancelScope) -> None:
        with inotify, scope:
            async for event in inotify:
                self._notice(event)
                self._news.set()

    def _notice(self, event: Event) -> None:
        watch = event.watch
        if event.name is None or watch is None:
            if event.mask & (Mask.Q_OVERFLOW | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT):
                self._next_look = 0.0
            for place in [place for place, known in self._watches.items() if known is watch]:
                if event.mask & Mask.IGNORED:
                    del self._watches[place]
            return
        file = (watch.path / event.name).relative_to(self._folder).as_posix()
        if is_ignored(event.name.name):
            return
        if event.mask & Mask.ISDIR:
            self._notice_folder(file, event.mask)
        elif is_document(file):
            self._notice_file(file, event.mask)

    def _notice_folder(self, folder: str, mask: Mask) -> None:
        if mask & (Mask.CREATE | Mask.MOVE | Mask.DELETE | Mask.ATTRIB):
            self._next_look = 0.0
        if mask & Mask.MOVED_FROM:
            for place in [place for place in self._watches if PurePosixPath(place).is_relative_to(folder)]:
                self._unwatch(place)

    def _notice_file(self, file: str, mask: Mask) -> None:
        if mask & (Mask.CLOSE_WRITE | Mask.MOVED_TO):
            self._expect(file, Hint.CLOSED)
        elif mask & (Mask.MOVED_FROM | Mask.DELETE) and file in self._marks:
            self._gone[file] = time.monotonic() + self._timing.removal_s
        elif (mask & Mask.CREATE and self._is_link(file)) or (mask & Mask.ATTRIB and self._is_unreadable(file)):
            self._expect(file, Hint.SEEN)

    def _is_unreadable(self, file: str) -> bool:
        return ":unreadable:" in self._marks.get(file, "")

    def _is_link(self, file: str) -> bool:
        """Nobody closes a link that was made: it is complete as soon as its target is."""
        with contextlib.suppress(OSError):
            found = (self._folder / file).lstat()
            return stat.S_ISLNK(found.st_mode) or found.st_nlink > 1
        return False


def _is_at_rest(state: FileState, at_ns: int) -> bool:
    return state.ctime_ns < at_ns - RESTED_NS


def _state_of(file: RememberedFile) -> FileState:
    return FileState(
        file=file.path,
        inode=file.inode,
        size_bytes=file.size_bytes,
        mtime_ns=file.mtime_ns,
        ctime_ns=file.ctime_ns,
    )


def _remembered(taken: Taken, at_rest: bool) -> RememberedFile:
    state = taken.state
    return RememberedFile(
        path=state.file,
        inode=state.inode,
        size_bytes=state.size_bytes,
        mtime_ns=state.mtime_ns,
        ctime_ns=state.ctime_ns,
        mark=taken.mark,
        at_rest=at_rest,
    )


def _with_cost(work: Callable[[], T]) -> tuple[T, float]:
    """What it returns, and the processor time that it took."""
    began = time.thread_time()
    result = work()
    return result, time.thread_time() - began
