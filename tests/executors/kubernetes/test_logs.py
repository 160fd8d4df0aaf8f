from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import anyio
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from fusemld.executors.kubernetes import logs
from fusemld.executors.kubernetes.logs import AttemptLog, Position, Stamps
from fusemld.executors.log_files import noted
from fusemld.executors.masking import needles
from fusemld.model.errors import ForbiddenError, FusemldError, NotFoundError, UnavailableError

GAP = "lines may be missing here: the node began a new log file before the one before was read to its end"
PIECES = st.lists(st.integers(min_value=1, max_value=60), max_size=30)
LINES = st.lists(
    st.tuples(
        st.integers(min_value=0, max_value=3), st.binary(max_size=12).map(lambda data: data.replace(b"\n", b" "))
    ),
    max_size=8,
)


def stamp(second: int, nanosecond: int = 0) -> bytes:
    return b"2026-11-23T11:00:%02d.%09dZ" % (second, nanosecond)


def stream(lines: Sequence[tuple[int, bytes]], since: str = "") -> bytes:
    """What the API server sends of a log: times grow by the first number of each line, in steps of 0.4 s."""
    sent = b""
    tenths = 0
    for step, text in lines:
        tenths += step * 4
        line_stamp = stamp(tenths // 10, tenths % 10 * 10**8)
        if line_stamp[:19] >= since.encode()[:19]:
            sent += line_stamp + b" " + text + b"\n"
    return sent


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


@given(LINES, PIECES)
def test_the_pieces_in_which_a_log_arrives_make_no_difference(
    lines: list[tuple[int, bytes]], sizes: list[int]
) -> None:
    stamps = Stamps(Position())

    found = b"".join(map(stamps.feed, cut(stream(lines), sizes)))

    assert found == b"".join(text + b"\n" for _, text in lines)


@given(LINES, st.lists(st.tuples(st.integers(min_value=0, max_value=200), st.booleans()), max_size=5))
def test_wherever_a_log_is_cut_nothing_is_lost_or_repeated(
    lines: list[tuple[int, bytes]], cuts: list[tuple[int, bool]]
) -> None:
    stamps = Stamps(Position())
    found = b""
    for size, by_restart in [*cuts, (10**6, False)]:
        since = stamps.resume()
        found += stamps.feed(stream(lines, since)[:size])
        if by_restart:
            stamps = Stamps(stamps.position(len(found)))

    assert found == b"".join(text + b"\n" for _, text in lines)


@given(st.integers(1, 6), st.integers(0, 7), st.integers(0, 37))
def test_what_a_node_does_not_show_any_more_is_told_where_it_is_missing(
    seen: int, forgotten: int, part: int
) -> None:
    """So many of ten lines were seen, and a part of the next, before the node began a new file after so many."""
    lines = stream([(2, b"line %d" % number) for number in range(10)]).splitlines(keepends=True)
    stamps = Stamps(Position())
    before = stamps.feed(b"".join(lines[:seen]) + lines[seen][:part])
    since = stamps.resume()
    shown = [line for line in lines[forgotten:] if line[:19] >= since.encode()[:19]]
    after = stamps.feed(b"".join(shown)) + stamps.finish()

    found = (before + after).replace(GAP.encode(), b"").splitlines()
    begun = seen + (part > len(stamp(0)))
    if forgotten < begun:
        assert GAP.encode() not in after
        assert found == [b"line %d" % number for number in range(10)]
    else:
        assert GAP.encode() in after
        assert found[:seen] == [b"line %d" % number for number in range(seen)]
        assert found[-1] == b"line 9"


def test_a_gap_at_the_very_end_is_told_too() -> None:
    stamps = Stamps(Position())
    stamps.feed(stream([(0, b"one")]))
    stamps.resume()

    assert stamps.feed(b"") + stamps.finish() == noted(GAP)


@pytest.mark.parametrize("zone", [b"Z", b"+02:00", b"-05:30"])
def test_times_are_compared_whatever_the_zone_of_the_node_and_the_digits_of_a_second(zone: bytes) -> None:
    def line(fraction: bytes, text: bytes) -> bytes:
        return b"2026-11-23T11:00:01" + fraction + zone + b" " + text + b"\n"

    stamps = Stamps(Position())
    whole = [line(b"", b"a"), line(b".000000001", b"b"), line(b".5", b"c"), line(b".500000001", b"d")]
    found = stamps.feed(b"".join(whole[:3]))
    stamps.resume()

    assert found + stamps.feed(b"".join(whole)) == b"a\nb\nc\nd\n"


def test_what_a_node_says_instead_of_a_log_is_shown() -> None:
    stamps = Stamps(Position())

    assert stamps.feed(b"unable to retrieve container logs for containerd://12\n") == (
        b"unable to retrieve container logs for containerd://12\n"
    )


class StutteringNode:
    """Refuses first, then sends a log as its connections are told to break; asks are kept. Where nothing breaks
    any more, it `ended`."""

    def __init__(
        self, lines: Sequence[tuple[int, bytes]], breaks: Sequence[int], refusals: Sequence[FusemldError] = ()
    ) -> None:
        self.asked: list[dict[str, str]] = []
        self.ended = anyio.Event()
        self._lines = lines
        self._breaks = list(breaks)
        self._refusals = list(refusals)

    @contextlib.asynccontextmanager
    async def logs(
        self, path: str, *, params: Mapping[str, str] | None = None, silence_s: float | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        asked = dict(params or {})
        self.asked.append(asked)
        if self._refusals:
            raise self._refusals.pop(0)
        yield self._send(stream(self._lines, asked.get("sinceTime", "")))

    async def _send(self, data: bytes) -> AsyncIterator[bytes]:
        if not self._breaks:
            yield data
            self.ended.set()
            return
        yield data[: self._breaks.pop(0)]
        raise UnavailableError("the connection broke")


LOG = [(0, b"one"), (1, b"two sesame"), (0, b"three"), (3, b"four")]


def attempt_log(node: StutteringNode, folder: Path, limit_bytes: int = 1000) -> AttemptLog:
    return AttemptLog(node, "/log", "step", folder / "a.log", folder / "a.position", limit_bytes=limit_bytes)


async def test_a_log_goes_on_where_it_broke_and_is_masked(tmp_path: Path) -> None:
    node = StutteringNode(LOG, [50, 120])
    log = attempt_log(node, tmp_path)
    log.open(needles([b"sesame"]), resumed=False)
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await log.read()
    await log.read()
    log.close()

    assert (tmp_path / "a.log").read_bytes() == b"one\ntwo ***\nthree\nfour\n"
    assert log.tail == "one\ntwo ***\nthree\nfour"
    assert [asked.get("sinceTime", "")[:19] for asked in node.asked] == [
        "",
        "2026-11-23T11:00:00",
        "2026-11-23T11:00:00",
    ]


async def test_a_log_is_followed_on_though_its_pod_is_not_to_be_seen_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the API server or the kubelet has just started: the one refuses, the other knows no pod."""
    monkeypatch.setattr(logs, "_FIRST_PAUSE_S", 0.0)
    gone = NotFoundError('cannot get /log: pods "a" not found')
    forbidden = ForbiddenError('cannot get /log: pods "a" is forbidden')
    node = StutteringNode(LOG, [90], [gone, gone, forbidden])
    log = attempt_log(node, tmp_path)
    log.open((), resumed=False)
    with structlog.testing.capture_logs() as told:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(log.follow)
            with anyio.fail_after(20):
                await node.ended.wait()
            tasks.cancel_scope.cancel()
    log.close()

    assert (tmp_path / "a.log").read_bytes() == b"one\ntwo sesame\nthree\nfour\n"
    assert [(each["event"], each["error"]) for each in told] == [
        ("pod.log_not_followed", str(gone)),
        ("pod.log_not_followed", str(forbidden)),
    ]


async def test_the_next_daemon_goes_on_where_this_one_was_killed(tmp_path: Path) -> None:
    log = attempt_log(StutteringNode(LOG, [90]), tmp_path)
    log.open(needles([b"sesame"]), resumed=False)
    with anyio.move_on_after(0.1):
        await log.follow()
    log.suspend()
    with (tmp_path / "a.log").open("ab") as file:
        file.write(b"written, and its position was not")
    node = StutteringNode(LOG, [])
    again = attempt_log(node, tmp_path)
    again.open(needles([b"sesame"]), resumed=True)
    await again.read()
    again.close()

    assert (tmp_path / "a.log").read_bytes() == b"one\ntwo ***\nthree\nfour\n"
    assert again.tail == "one\ntwo ***\nthree\nfour"
    assert node.asked[0]["sinceTime"].startswith("2026-11-23T11:00:00.4")
    again.forget()
    assert [file.name for file in tmp_path.iterdir()] == ["a.log"]


async def test_a_log_that_was_complete_stays_so_though_nothing_can_be_read_any_more(tmp_path: Path) -> None:
    log = attempt_log(StutteringNode(LOG, []), tmp_path)
    log.open((), resumed=False)
    await log.read()
    log.close()
    again = attempt_log(StutteringNode([], []), tmp_path)
    again.open((), resumed=True)
    again.note("the pod was gone")
    again.close()

    assert (tmp_path / "a.log").read_bytes() == b"one\ntwo sesame\nthree\nfour\n\n[fusemld: the pod was gone]\n"


async def test_a_log_that_was_not_followed_is_read_anew_by_the_next_daemon(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"half a l")
    log = attempt_log(StutteringNode(LOG, []), tmp_path)
    log.open((), resumed=True)
    await log.read()
    log.close()

    assert (tmp_path / "a.log").read_bytes() == b"one\ntwo sesame\nthree\nfour\n"


async def test_a_log_has_a_limit_and_a_note_but_its_last_lines_are_known(tmp_path: Path) -> None:
    log = attempt_log(StutteringNode(LOG, []), tmp_path, limit_bytes=8)
    log.open((), resumed=False)
    await log.read()
    log.close()

    note = (
        "[fusemld: the log is limited to 8 bytes (setting log.step_limit_bytes): 18 bytes more were dropped here]"
    )
    assert (tmp_path / "a.log").read_text() == f"one\ntwo \n{note}\n"
    assert log.tail == f"one\ntwo sesame\nthree\nfour\n\n{note}"


async def test_a_log_that_cannot_be_written_is_read_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.log").mkdir()
    log = attempt_log(StutteringNode(LOG, []), tmp_path)
    log.open((), resumed=True)
    await log.read()
    log.close()

    assert log.tail.startswith("one\ntwo sesame\nthree\nfour\n")
    assert "the log is not complete: Is a directory" in log.tail
