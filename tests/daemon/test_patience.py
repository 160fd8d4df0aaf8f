from __future__ import annotations

import errno
import re
from datetime import datetime, timedelta

import anyio
import pytest

from fusemld.daemon import patience
from fusemld.daemon.patience import patiently
from fusemld.model.errors import StartError, UnavailableError


class Flaky:
    """Out of reach that many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    async def __call__(self) -> str:
        if self.left:
            self.left -= 1
            raise UnavailableError("cannot reach it")
        return "reached"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_S", 0.001)
    monkeypatch.setattr(patience, "LONGEST_S", 0.002)


async def test_what_is_out_of_reach_is_tried_again_and_said() -> None:
    notes: list[str] = []

    reached = await patiently(Flaky(3), notes.append)

    assert reached == "reached"
    assert len(notes) == 3
    assert all(re.fullmatch(r"cannot reach it; trying again at \d\d:\d\d:\d\d", note) for note in notes), notes


async def test_when_it_is_tried_again_is_the_time_of_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_S", 1.0)
    monkeypatch.setattr(patience, "LONGEST_S", 1.0)
    notes: list[str] = []
    began = datetime.now().astimezone()

    await patiently(Flaky(1), notes.append)

    ended = datetime.now().astimezone()
    said = notes[0].removeprefix("cannot reach it; trying again at ")
    first, last = began + timedelta(seconds=1), ended + timedelta(seconds=1)
    assert f"{first:%H:%M:%S}" <= said <= f"{last:%H:%M:%S}" or first.date() != last.date()
    assert ended - began > timedelta(milliseconds=998), "the event loop counts whole milliseconds"


async def test_want_of_room_is_waited_for_and_other_errors_of_the_system_are_not() -> None:
    notes: list[str] = []
    errors = [OSError(errno.ENOSPC, "No space left on device"), PermissionError(errno.EACCES, "Permission denied")]

    async def fails() -> None:
        raise errors.pop(0)

    with pytest.raises(PermissionError):
        await patiently(fails, notes.append)

    (note,) = notes
    assert note.startswith("[Errno 28] No space left on device; trying again at ")


async def test_who_may_not_wait_any_longer_gets_the_error() -> None:
    asked: list[float] = []

    def may_wait(pause_s: float) -> bool:
        asked.append(pause_s)
        return len(asked) < 2

    with pytest.raises(UnavailableError, match="cannot reach it"):
        await patiently(Flaky(9), lambda _: None, may_wait=may_wait)

    assert asked == [0.001, 0.002]


async def test_other_errors_are_raised_at_once() -> None:
    async def wrong() -> None:
        raise StartError("cannot start it")

    with pytest.raises(StartError):
        await patiently(wrong, lambda _: None)


async def test_waiting_can_be_cancelled() -> None:
    with anyio.move_on_after(0.02) as scope:
        await patiently(Flaky(10**9), lambda _: None)

    assert scope.cancelled_caught
