"""Real processes in a real keeper."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

from fusemld.executors.masking import HOLDS_CREDENTIAL
from fusemld.executors.process import wire
from fusemld.executors.process.client import Keeper
from fusemld.executors.process.collecting import read_left
from fusemld.executors.process.wire import connect, keeper_folder
from fusemld.hooks.processes import ProcessEnded
from fusemld.model.errors import StartError

if TYPE_CHECKING:
    from tests.executors.process.conftest import Host, HostFactory

Until = Callable[[Callable[[], bool]], Awaitable[None]]
Starved = Callable[..., contextlib.AbstractContextManager[None]]


@pytest.mark.parametrize("status", [0, 3, 255])
async def test_an_exit_status_is_reported(host: HostFactory, status: int) -> None:
    async with host() as opened:
        ended = await opened.shell("a", f"exit {status}")

        assert (ended.exit_status, ended.signal, ended.lost) == (status, None, None)
        assert (await opened.start("a")).pid > 0


async def test_the_keeper_takes_no_module_from_where_the_daemon_was_started(
    host: HostFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("fusemld", "msgspec", "select"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit(9)\n")
    monkeypatch.chdir(tmp_path)

    async with host() as opened:
        ended = await opened.shell("a", "exit 3")

    assert ended.exit_status == 3


async def test_a_signal_is_reported(host: HostFactory) -> None:
    async with host() as opened:
        ended = await opened.shell("a", "kill -USR1 $$")

        assert (ended.exit_status, ended.signal) == (None, 10)


async def test_standard_output_and_error_are_in_the_log_and_its_end_in_the_report(host: HostFactory) -> None:
    async with host() as opened:
        ended = await opened.shell("a", "seq 100; echo wrong >&2; exit 1")

        assert opened.log("a").read_text() == "".join(f"{n}\n" for n in range(1, 101)) + "wrong\n"
        assert ended.tail.splitlines() == [*map(str, range(82, 101)), "wrong"]


async def test_what_is_left_of_a_group_is_killed_with_its_leader(
    host: HostFactory, gone: Callable[[int], Awaitable[None]]
) -> None:
    async with host() as opened:
        ended = await opened.shell("a", "sleep 1000 & echo $!; exit 4")

        assert ended.exit_status == 4
        await gone(int(ended.tail))


async def test_who_leaves_the_group_is_found_and_killed(
    host: HostFactory, gone: Callable[[int], Awaitable[None]]
) -> None:
    async with host() as opened:
        ended = await opened.shell("a", "setsid sh -c 'echo $$; exec sleep 1000' & sleep 0.2")

        assert ended.exit_status == 0
        await gone(int(ended.tail))


async def test_a_key_is_never_started_twice(host: HostFactory) -> None:
    async with host() as opened:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(opened.spawn, "a", "sh", "-c", "echo once")
        await opened.end("a")
        await opened.spawn("a", "sh", "-c", "echo once")

        assert opened.log("a").read_text() == "once\n"


async def test_stopping_asks_first(until: Until, host: HostFactory) -> None:
    async with host() as opened:
        await opened.spawn("a", "sh", "-c", "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.01; done")
        await until(opened.log("a").exists)
        await opened.keeper.stop("a", 20)
        ended = await opened.end("a")

        assert (ended.exit_status, ended.killed) == (5, True)
        assert ended.tail.splitlines()[-1] == "bye"


async def test_what_does_not_stop_is_killed_after_the_grace_time(until: Until, host: HostFactory) -> None:
    async with host() as opened:
        await opened.spawn("a", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.01; done")
        await until(opened.log("a").exists)
        await opened.keeper.stop("a", 0.2)
        ended = await opened.end("a")

        assert (ended.signal, ended.killed) == (9, True)


async def test_children_get_the_grace_time_too_when_their_leader_gives_up_at_once(
    until: Until, host: HostFactory
) -> None:
    script = "sh -c 'trap \"sleep 0.3; echo saved; exit\" TERM; echo up; while :; do sleep 0.01; done' & wait"
    async with host() as opened:
        await opened.spawn("a", "sh", "-c", script)
        await until(opened.log("a").exists)
        await opened.keeper.stop("a", 20)
        ended = await opened.end("a")

        assert ended.killed
        assert ended.tail.splitlines()[-1] == "saved"


async def test_stopping_what_is_not_there_is_ignored(host: HostFactory) -> None:
    async with host() as opened:
        await opened.keeper.stop("nobody", 1)


async def test_a_secret_is_masked_in_the_log_and_in_the_last_lines(
    host: HostFactory, journal: Callable[[Path], bytes]
) -> None:
    script = "printf 'it is can'; sleep 0.1; printf 'ary-1, '; head -c 200000 /dev/zero; echo \"$S $S\""
    async with host() as opened:
        ended = await opened.shell("a", script, secret_env={"S": "canary-1"}, secrets=("canary-1",))

        log = opened.log("a").read_bytes()
        assert log == b"it is ***, " + bytes(200000) + b"*** ***\n"
        assert ended.tail.endswith("*** ***")
        assert b"canary-1" not in journal(opened.state)
        for file in opened.state.rglob("*"):
            assert not file.is_file() or b"canary-1" not in file.read_bytes()


async def test_outputs_are_read_byte_for_byte(host: HostFactory, tmp_path: Path) -> None:
    script = "head -c 1048576 /dev/urandom > big; printf '\\000\\377\\n' > odd; : > empty"
    async with host() as opened:
        ended = await opened.shell(
            "a", script, cwd=tmp_path, results=tmp_path, outputs=("big", "odd", "empty", "none")
        )

        assert ended.outputs == {"big": (tmp_path / "big").read_bytes(), "odd": b"\0\xff\n", "empty": b""}
        assert ended.refused_outputs == {}


@pytest.mark.parametrize("secrets", [(), ("canary-3",)])
@pytest.mark.parametrize(("told_bytes", "are_left"), [(0, False), (8, False), (7, True)])
async def test_outputs_that_are_long_together_are_left_where_they_are(
    host: HostFactory,
    journal: Callable[[Path], bytes],
    tmp_path: Path,
    told_bytes: int,
    are_left: bool,
    secrets: tuple[str, ...],
) -> None:
    async with host() as opened:
        ended = await opened.shell(
            "a",
            "for name in a b; do printf 1234 > $name; done",
            cwd=tmp_path,
            results=tmp_path,
            outputs=("a", "none", "b"),
            told_outputs_bytes=told_bytes,
            secrets=secrets,
        )

        assert ended.outputs == ({} if are_left else {"a": b"1234", "b": b"1234"})
        assert ended.left_outputs.keys() == ({"a", "b"} if are_left else set())
        assert b"MTIzNA" not in journal(opened.state) or not are_left  # base64 of 1234
        if are_left:
            assert read_left(tmp_path, ended.left_outputs) == {"a": b"1234", "b": b"1234"}


@pytest.mark.parametrize(
    "change",
    ["printf 1235 > b", "printf x >> a", "printf 12345 > b", "rm b", "rm b; mkdir b", "rm b; ln -s a b"],
)
async def test_what_was_left_is_not_taken_for_what_somebody_makes_of_it(
    host: HostFactory, tmp_path: Path, change: str
) -> None:
    async with host() as opened:
        script = "for name in a b; do printf 1234 > $name; done"
        ended = await opened.shell(
            "a", script, cwd=tmp_path, results=tmp_path, outputs=("a", "b"), told_outputs_bytes=1
        )
        await anyio.run_process(["sh", "-c", f"sleep 0.02; {change}"], cwd=tmp_path)

        assert read_left(tmp_path, ended.left_outputs) is None


@pytest.mark.parametrize("change", ["touch -d @100000000000000 a b", "ln a c", "chmod 400 a", "cp b c; mv c b"])
async def test_what_was_left_is_still_the_same_whatever_else_changes(
    host: HostFactory, tmp_path: Path, change: str
) -> None:
    async with host() as opened:
        script = f"for name in a b; do printf 1234 > $name; done; {change}"
        ended = await opened.shell(
            "a", script, cwd=tmp_path, results=tmp_path, outputs=("a", "b"), told_outputs_bytes=1
        )
        await anyio.run_process(["sh", "-c", change], cwd=tmp_path, check=False)

        assert read_left(tmp_path, ended.left_outputs) == {"a": b"1234", "b": b"1234"}


async def leaves_much(opened: Host, until: Until, place: Path) -> None:
    """Start `long`, and wait until it has written 300 outputs of 1 MiB: to read them takes half a second."""
    names = tuple(f"o{number}" for number in range(300))
    fill = "truncate -s 1048576 o0; for n in $(seq 299); do ln o0 o$n; done; touch gate"
    await opened.spawn(
        "long",
        *("sh", "-c", fill),
        cwd=place,
        results=place,
        outputs=names,
        told_outputs_bytes=1,
        all_outputs_limit_bytes=2**30,
    )
    await until((place / "gate").exists)


async def test_who_is_told_to_stop_while_its_long_outputs_are_read_has_ended_already(
    host: HostFactory, until: Until, tmp_path: Path
) -> None:
    async with host() as opened:
        await leaves_much(opened, until, tmp_path)
        await opened.shell("short", "exit 3")  # its end comes after that of the other
        await opened.keeper.stop("long", 0)
        ended = await opened.end("long")

        assert (ended.exit_status, ended.killed, len(ended.left_outputs)) == (0, False, 300)


async def test_others_start_and_end_while_long_outputs_are_read(
    host: HostFactory, until: Until, tmp_path: Path
) -> None:
    """Each in a turn of its own of the keeper's loop, which is open to everybody."""
    async with host() as opened:
        await leaves_much(opened, until, tmp_path)
        await opened.shell("short", "exit 3")
        await opened.end("long")

        assert [event.key for event in opened.events if isinstance(event, ProcessEnded)] == ["short", "long"]


@pytest.mark.parametrize("told_bytes", [0, 1])
async def test_outputs_that_must_not_go_out_are_refused_with_the_reason(
    host: HostFactory, tmp_path: Path, told_bytes: int
) -> None:
    script = (
        "head -c 101 /dev/zero > large; echo canary-2 > secret; mkfifo pipe; "
        "ln -s /etc/passwd link; mkdir folder; echo fine > fine"
    )
    names = ("large", "secret", "pipe", "link", "folder", "fine")
    async with host() as opened:
        ended = await opened.shell(
            "a",
            script,
            cwd=tmp_path,
            results=tmp_path,
            outputs=names,
            output_limit_bytes=100,
            told_outputs_bytes=told_bytes,
            secrets=("canary-2",),
        )

        fine = read_left(tmp_path, ended.left_outputs) if told_bytes else ended.outputs
        assert fine == {"fine": b"fine\n"}
        assert ended.refused_outputs == {
            "large": "it has 101 bytes; at most 100 are allowed",
            "secret": HOLDS_CREDENTIAL,
            "pipe": "it is not a plain file",
            "link": "it cannot be read: Too many levels of symbolic links",
            "folder": "it is not a plain file",
        }


@pytest.mark.parametrize(
    ("limit_bytes", "taken", "refused"),
    [(12, ("a", "b", "c"), ()), (11, ("a", "b"), ("c",)), (4, ("a",), ("b",)), (3, (), ("a",))],
)
@pytest.mark.parametrize("told_bytes", [0, 1])
async def test_all_outputs_together_have_a_limit_and_the_one_that_goes_beyond_it_is_refused(
    host: HostFactory,
    tmp_path: Path,
    limit_bytes: int,
    taken: tuple[str, ...],
    refused: tuple[str, ...],
    told_bytes: int,
) -> None:
    script = "for name in a b c; do printf 1234 > $name; done"
    async with host() as opened:
        ended = await opened.shell(
            "a",
            script,
            cwd=tmp_path,
            results=tmp_path,
            outputs=("a", "none", "b", "c"),
            all_outputs_limit_bytes=limit_bytes,
            told_outputs_bytes=told_bytes,
        )

        reason = f"with it, the outputs have more than the {limit_bytes} bytes together that are allowed"
        found = read_left(tmp_path, ended.left_outputs) if told_bytes else ended.outputs
        assert found == dict.fromkeys(taken, b"1234")
        assert ended.refused_outputs == dict.fromkeys(refused, reason)


async def test_a_request_too_large_for_a_frame_is_refused_and_nothing_else_is(
    host: HostFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with host() as opened:
        monkeypatch.setattr(wire, "FRAME_LIMIT_BYTES", 10_000)
        with pytest.raises(StartError, match="cannot start a: what is to be handed over is too large: a frame of"):
            await opened.spawn("a", "true", secret_env={"X": "x" * 10_000})

        assert (await opened.shell("b", "exit 3")).exit_status == 3
        assert [event.key for event in await opened.keeper.known("")] == ["b"]
        assert not keeper_says(opened.state, "dropped")


async def test_a_log_has_a_limit_and_a_note_but_its_last_lines_are_known(host: HostFactory) -> None:
    async with host() as opened:
        ended = await opened.shell("a", "seq 1 10000; echo the end", log_limit_bytes=1000)

        log = opened.log("a").read_text()
        assert log.startswith("1\n2\n3\n")
        assert len(log) < 1200
        assert "[fusemld: the log is limited to 1000 bytes: 47902 bytes more were dropped here]" in log
        assert "the end" in ended.tail


async def test_a_log_that_cannot_be_written_stops_nobody(host: HostFactory) -> None:
    async with host() as opened:
        ended = await opened.shell("a", "head -c 1000000 /dev/zero; echo done", log=Path("/dev/full"))

        assert ended.exit_status == 0
        assert "the log is not complete: No space left on device" in ended.tail


async def test_a_flood_does_not_starve_the_others(host: HostFactory) -> None:
    async with host() as opened:
        await opened.spawn("flood", "sh", "-c", "while :; do head -c 1000000 /dev/zero; done", log_limit_bytes=10)
        with anyio.fail_after(10):
            for number in range(5):
                await opened.shell(f"step/{number}", "echo x")
        await opened.keeper.stop("flood", 0)
        await opened.end("flood")


async def test_many_at_once_all_end(host: HostFactory) -> None:
    async with host() as opened:
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(opened.shell, f"step/{number}", f"exit {number}")

        ends = {event.key: event.exit_status for event in opened.events if isinstance(event, ProcessEnded)}
        assert ends == {f"step/{number}": number for number in range(100)}


async def test_known_tells_the_latest_below_a_prefix_until_it_is_forgotten(host: HostFactory) -> None:
    async with host() as opened:
        await opened.shell("step/a", "exit 1")
        await opened.shell("service/b", "exit 2")
        assert [event.key for event in await opened.keeper.known("step/")] == ["step/a"]

        await opened.keeper.forget("step/a")

        assert not await opened.keeper.known("step/")
        assert [event.key for event in await opened.keeper.known("")] == ["service/b"]


async def test_known_tells_of_all_that_was_asked_for_before(host: HostFactory) -> None:
    """Else the next daemon takes what a killed one has just asked for as never started."""
    keys = {f"k{number}" for number in range(20)}
    async with host() as opened:
        known: set[str] = set()

        async def ask() -> None:
            known.update(event.key for event in await opened.keeper.known("k"))

        async with anyio.create_task_group() as tasks:
            for key in sorted(keys):
                tasks.start_soon(opened.spawn, key, "sleep", "1000")
            tasks.start_soon(ask)

        assert known == keys


@pytest.mark.parametrize(
    "rubbish",
    [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\1\xc1", b"\xff\xff\xff\xff", b"\0\0\0\xff half a frame", b"\0\0\0\0"],
)
async def test_rubbish_on_the_socket_harms_nobody(host: HostFactory, rubbish: bytes) -> None:
    async with host() as opened:
        await opened.spawn("a", "sleep", "1000")
        stranger = await anyio.to_thread.run_sync(connect, keeper_folder(opened.state))
        stranger.sendall(rubbish)
        stranger.close()

        assert (await opened.shell("b", "exit 6")).exit_status == 6
        assert [event.key for event in await opened.keeper.known("a")] == ["a"]


async def test_a_state_folder_may_be_deeper_than_a_socket_address_is_long(
    host: HostFactory, tmp_path: Path
) -> None:
    deep = tmp_path.joinpath(*["a-folder-with-a-long-name"] * 8)
    deep.mkdir(parents=True)

    async with host(deep) as opened:
        assert (await opened.shell("a", "exit 7")).exit_status == 7


async def test_only_the_user_can_reach_the_socket_and_read_the_journal(host: HostFactory) -> None:
    async with host() as opened:
        folder = keeper_folder(opened.state)

        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "journal").stat().st_mode & 0o777 == 0o600


async def test_a_keeper_whose_log_is_on_a_full_disk_works(host: HostFactory, state: Path) -> None:
    folder = keeper_folder(state)
    folder.mkdir()
    (folder / "keeper.log").symlink_to("/dev/full")

    async with host() as opened:
        assert (await opened.shell("a", "exit 3")).exit_status == 3


async def test_a_keeper_that_cannot_start_says_why_at_once(state: Path) -> None:
    (keeper_folder(state) / "journal").mkdir(parents=True)
    keeper = Keeper(state)

    with anyio.fail_after(10), pytest.raises(StartError, match="Is a directory"):
        await keeper.run()


# Without descriptors


def keeper_says(state: Path, text: str) -> int:
    """How often."""
    return (keeper_folder(state) / "keeper.log").read_text().count(text)


async def test_the_end_of_a_process_waits_until_its_outputs_can_be_read(
    until: Until, host: HostFactory, state: Path, starved: Starved
) -> None:
    async with host() as opened:
        script = "echo up; until test -e gate; do sleep 0.02; done; printf out > result"
        await opened.spawn("a", "sh", "-c", script, results=state, outputs=("result",))
        await until(opened.log("a").exists)

        with starved():
            (state / "gate").touch()
            await until(lambda: keeper_says(state, "cannot read the outputs of a now") > 0)
        ended = await opened.end("a")

        assert (ended.exit_status, ended.outputs, ended.refused_outputs) == (0, {"result": b"out"}, {})


async def test_who_left_the_group_is_looked_for_until_that_is_possible(
    until: Until, host: HostFactory, state: Path, starved: Starved, gone: Callable[[int], Awaitable[None]]
) -> None:
    async with host() as opened:
        script = "setsid sleep 1000 & echo $!; until test -e gate; do sleep 0.02; done"
        await opened.spawn("a", "sh", "-c", script)
        await until(opened.log("a").exists)

        with starved():
            (state / "gate").touch()
            await until(lambda: keeper_says(state, "cannot look for processes now") > 0)
        ended = await opened.end("a")

        assert ended.exit_status == 0
        await gone(int(opened.log("a").read_text()))


async def test_a_connection_that_cannot_be_accepted_waits_and_keeps_nobody_busy(
    until: Until, host: HostFactory, state: Path, starved: Starved
) -> None:
    async with host() as opened:
        await opened.shell("a", "true")

        with starved(), connect(keeper_folder(state)) as second:
            await until(lambda: keeper_says(state, "cannot accept a connection") > 0)
            began, said = time.monotonic(), keeper_says(state, "cannot accept a connection")
            await until(lambda: keeper_says(state, "cannot accept a connection") > said)
            took_s = time.monotonic() - began
            with starved(spare=5):
                hello = await anyio.to_thread.run_sync(second.recv, 4)

        assert took_s > 0.2
        assert hello
