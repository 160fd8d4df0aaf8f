"""The supervisor with a real keeper and real, small HTTP servers."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from fusemld.hooks.services import ServiceKind, ServiceRequest
from fusemld.model.errors import InvalidInputError, StartError, UnavailableError
from fusemld.model.service import ServiceCondition
from fusemld.services.backoff import Backoff
from tests.services.asking import (
    BROKEN,
    PLAIN,
    SHARED,
    UPDATED,
    Eventually,
    Open,
    fetch,
    is_gone,
    silent,
    state_of,
)
from tests.services.conftest import DEADLINE_S, KINDS


async def test_a_service_is_ready_when_ensure_returns_and_ensure_repeats_without_a_restart(
    open_supervisor: Open,
) -> None:
    async with open_supervisor() as supervisor:
        address = await supervisor.ensure(PLAIN, silent)
        first = state_of(supervisor, "plain")
        again = await supervisor.ensure(PLAIN, silent)

        assert await fetch(address.url) == "hello"
        assert again == address
        assert first.state is ServiceCondition.READY
        assert state_of(supervisor, "plain").pid == first.pid
        assert first.url == address.url
        assert "serving hello" in Path(first.log).read_text()


async def test_asking_twice_at_once_starts_one_process(open_supervisor: Open) -> None:
    async with open_supervisor() as supervisor:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(supervisor.ensure, PLAIN, silent)
            tasks.start_soon(supervisor.ensure, PLAIN, silent)

        assert state_of(supervisor, "plain").starts == 1


async def test_credentials_are_generated_once_kept_private_and_masked_in_the_log(
    open_supervisor: Open, state: Path
) -> None:
    async with open_supervisor() as supervisor:
        address = await supervisor.ensure(PLAIN, silent)
        file = state / "services" / "plain" / "credentials.json"
        secret = json.loads(file.read_text())["secret_key"]
        seen = json.loads(await fetch(f"{address.url}/env"))

        assert file.stat().st_mode & 0o777 == 0o600
        assert address.credentials["secret_key"] == secret == seen["SECRET_SECRET_KEY"]
        assert secret not in repr(address)
        log = Path(state_of(supervisor, "plain").log).read_text()
        assert secret not in log
        assert "***" in log


async def test_a_service_gets_a_minimal_environment(
    open_supervisor: Open, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", "1")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    async with open_supervisor() as supervisor:
        address = await supervisor.ensure(PLAIN, silent)
        seen = json.loads(await fetch(f"{address.url}/env"))

        assert "CANARY" not in seen
        assert "PYTHONDONTWRITEBYTECODE" not in seen
        assert seen["HOME"] == str(state / "services" / "plain")
        assert "127.0.0.1" in seen["NO_PROXY"]


async def test_what_a_service_requires_runs_first_and_its_address_is_known(open_supervisor: Open) -> None:
    async with open_supervisor() as supervisor:
        address = await supervisor.ensure(ServiceRequest(name="dependent", kind="dependent"), silent)
        peer = supervisor.find("plain")

        assert peer is not None
        assert json.loads(await fetch(f"{address.url}/env"))["PEER_PLAIN"] == peer.url


@pytest.mark.parametrize(
    ("fail", "words"),
    [("exit", "exit status 1\n.*the disk is on fire"), ("silent", "not ready after 2 s\nserving")],
)
async def test_a_service_that_does_not_get_ready_is_an_error_with_its_last_lines(
    open_supervisor: Open, eventually: Eventually, fail: str, words: str
) -> None:
    async with open_supervisor() as supervisor:
        with pytest.raises(StartError, match=f"(?s)cannot start service plain: .*{words}"):
            await supervisor.ensure(replace(PLAIN, parameters={"fail": fail}), silent)
        failed = state_of(supervisor, "plain")

        assert failed.state is ServiceCondition.FAILED

        await supervisor.ensure(PLAIN, silent)

        assert state_of(supervisor, "plain").state is ServiceCondition.READY


async def test_a_kind_that_nobody_brings_is_an_error(open_supervisor: Open) -> None:
    async with open_supervisor() as supervisor:
        with pytest.raises(StartError, match="of kind nothing: no installed plugin brings it"):
            await supervisor.ensure(ServiceRequest(name="x", kind="nothing"), silent)

        assert supervisor.states() == ()


@pytest.mark.parametrize("name", ["", "..", "a/b"])
async def test_a_name_that_leaves_the_folder_is_refused(open_supervisor: Open, name: str) -> None:
    async with open_supervisor() as supervisor:
        with pytest.raises(InvalidInputError, match="as the name of a service"):
            await supervisor.ensure(replace(PLAIN, name=name), silent)


@pytest.mark.parametrize("request_", [PLAIN, SHARED], ids=["own socket", "inherited socket"])
async def test_a_service_that_dies_comes_back_at_the_same_address(
    open_supervisor: Open, eventually: Eventually, request_: ServiceRequest
) -> None:
    async with open_supervisor() as supervisor:
        address = await supervisor.ensure(request_, silent)
        before = state_of(supervisor, request_.name).pid
        assert before is not None

        os.kill(before, signal.SIGKILL)

        await eventually(
            lambda: (
                (now := state_of(supervisor, request_.name)).state is ServiceCondition.READY
                and now.pid not in (None, before)
            ),
            "another process is ready",
        )
        assert await fetch(address.url) == request_.parameters.get("text", "hello")


async def test_when_it_starts_again_is_counted_down(open_supervisor: Open, eventually: Eventually) -> None:
    seen: list[int] = []

    def is_counted_down() -> bool:
        said = re.fullmatch(
            r"it was killed by signal 9; starts again in (\d) s", state_of(supervisor, "plain").message
        )
        if said and (not seen or int(said[1]) < seen[-1]):
            seen.append(int(said[1]))
        return len(seen) == 2

    async with open_supervisor(backoff=Backoff(initial_s=3.0)) as supervisor:
        await supervisor.ensure(PLAIN, silent)
        pid = state_of(supervisor, "plain").pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

        await eventually(is_counted_down, "fewer seconds are left")
        await eventually(lambda: state_of(supervisor, "plain").state is ServiceCondition.READY, "it is back")


async def test_a_port_that_somebody_else_took_is_said_and_waited_for(
    open_supervisor: Open, eventually: Eventually
) -> None:
    async with open_supervisor() as supervisor:
        address = await supervisor.ensure(PLAIN, silent)
        await supervisor.stop_all()
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind((address.host, address.port))
        thief.listen()
        async with open_supervisor() as supervisor:
            await eventually(
                lambda: (
                    f"its port {address.port} on 127.0.0.1 is used by another program"
                    in state_of(supervisor, "plain").message
                ),
                "the state names the port",
            )
            assert state_of(supervisor, "plain").state is ServiceCondition.BACKOFF

            thief.close()

            await eventually(lambda: state_of(supervisor, "plain").state is ServiceCondition.READY, "it is back")
            assert supervisor.find("plain") == address


async def test_cancelling_leaves_services_running_and_the_next_daemon_adopts_them(
    open_supervisor: Open, eventually: Eventually
) -> None:
    async with open_supervisor() as supervisor:
        address = await supervisor.ensure(SHARED, silent)
        before = state_of(supervisor, "model").pid
    assert await fetch(address.url) == "old"

    async with open_supervisor() as supervisor:
        await eventually(lambda: state_of(supervisor, "model").state is ServiceCondition.READY, "adopted")

        assert state_of(supervisor, "model").pid == before
        assert await supervisor.ensure(SHARED, silent) == address


@pytest.mark.parametrize("kinds", [KINDS, ()])
async def test_what_an_earlier_daemon_left_serves_since_its_process_started(
    open_supervisor: Open, eventually: Eventually, kinds: Sequence[ServiceKind]
) -> None:
    """Also where no plugin can say how to ask it."""
    async with open_supervisor() as supervisor:
        await supervisor.ensure(SHARED, silent)
        began = state_of(supervisor, "model").since

    async with open_supervisor(kinds=kinds) as supervisor:
        await eventually(lambda: state_of(supervisor, "model").state is ServiceCondition.READY, "adopted")

        assert began - DEADLINE_S < state_of(supervisor, "model").since <= began


async def test_what_died_while_no_daemon_was_there_is_started_again(
    open_supervisor: Open, eventually: Eventually
) -> None:
    async with open_supervisor() as supervisor:
        address = await supervisor.ensure(PLAIN, silent)
        before = state_of(supervisor, "plain").pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    await eventually(lambda: is_gone(before), "the process is gone")

    async with open_supervisor() as supervisor:
        await eventually(lambda: state_of(supervisor, "plain").state is ServiceCondition.READY, "started again")

        assert await fetch(address.url) == "hello"


async def test_a_keeper_that_is_killed_leaves_one_serving_process(
    open_supervisor: Open, eventually: Eventually, state: Path
) -> None:
    async with open_supervisor() as supervisor:
        address = await supervisor.ensure(SHARED, silent)
        served = state_of(supervisor, "model").pid
        keeper = int(Path(f"/proc/{served}/stat").read_text().rpartition(")")[2].split()[1])

        os.kill(keeper, signal.SIGKILL)

        await eventually(
            lambda: (
                (now := state_of(supervisor, "model")).state is ServiceCondition.READY
                and now.pid is not None
                and (now.pid == served or is_gone(served))
            ),
            "one process serves",
        )
        assert await fetch(address.url) == "old"


async def test_an_update_refuses_no_connection_and_ends_the_old_process(
    open_supervisor: Open, eventually: Eventually
) -> None:
    async with open_supervisor() as supervisor:
        address = await supervisor.ensure(SHARED, silent)
        before = state_of(supervisor, "model").pid
        hammer = Hammer(address.url)

        with hammer:
            for request in (UPDATED, SHARED, UPDATED):
                assert await supervisor.ensure(request, silent) == address
            await eventually(lambda: is_gone(before), "the old process is gone")
            await eventually(lambda: hammer.answers[-1:] == ["new"], "the new text")

        assert hammer.errors == []
        assert set(hammer.answers) == {"old", "new"}


async def test_a_failed_update_leaves_the_old_process_untouched(open_supervisor: Open) -> None:
    async with open_supervisor() as supervisor:
        address = await supervisor.ensure(SHARED, silent)
        before = state_of(supervisor, "model")
        hammer = Hammer(address.url)

        with hammer, pytest.raises(StartError, match="the disk is on fire"):
            await supervisor.ensure(BROKEN, silent)

        assert hammer.errors == []
        assert await fetch(address.url) == "old"
        after = state_of(supervisor, "model")
        assert (after.pid, after.state) == (before.pid, ServiceCondition.READY)


async def test_other_parameters_restart_a_service_that_has_its_own_socket(open_supervisor: Open) -> None:
    async with open_supervisor() as supervisor:
        address = await supervisor.ensure(PLAIN, silent)

        assert await supervisor.ensure(replace(PLAIN, parameters={"text": "other"}), silent) == address

        assert await fetch(address.url) == "other"


async def test_a_failed_restart_brings_back_what_was_there(open_supervisor: Open, eventually: Eventually) -> None:
    async with open_supervisor() as supervisor:
        address = await supervisor.ensure(PLAIN, silent)

        with pytest.raises(StartError, match="the disk is on fire"):
            await supervisor.ensure(replace(PLAIN, parameters={"fail": "exit"}), silent)

        assert state_of(supervisor, "plain").state is ServiceCondition.READY
        assert await fetch(address.url) == "hello"


async def test_a_daemon_that_dies_during_an_update_leaves_the_old_process_and_nothing_else(
    open_supervisor: Open, eventually: Eventually, records: Any
) -> None:
    async with open_supervisor() as supervisor:
        address = await supervisor.ensure(SHARED, silent)
        before = state_of(supervisor, "model").pid
        recorded = records.saved["model"]
        await supervisor.ensure(UPDATED, silent)
        await eventually(lambda: is_gone(before), "the old process is gone")
        half_done = state_of(supervisor, "model").pid
    # As it was stored after the replacement was started, and before it was recorded as the one that serves.
    number = records.saved["model"].start
    records.saved["model"] = replace(recorded, replacement=number, counter=number)

    async with open_supervisor() as supervisor:
        await eventually(lambda: is_gone(half_done), "the half-done replacement is gone")
        await eventually(lambda: state_of(supervisor, "model").state is ServiceCondition.READY, "serving")
        assert await fetch(address.url) == "old"

        await supervisor.ensure(UPDATED, silent)

        assert await fetch(address.url) == "new"


async def test_stop_all_ends_every_service_and_starts_no_more(
    open_supervisor: Open, eventually: Eventually
) -> None:
    async with open_supervisor() as supervisor:
        await supervisor.ensure(PLAIN, silent)
        await supervisor.ensure(SHARED, silent)
        pids = [state.pid for state in supervisor.states()]

        await supervisor.stop_all()

        assert all(is_gone(pid) for pid in pids)
        assert {state.state for state in supervisor.states()} == {ServiceCondition.STOPPED}
        with pytest.raises(UnavailableError):
            await supervisor.ensure(PLAIN, silent)


class Hammer:
    """Clients in threads, each with a new connection for every request, while the context is open."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(3)]
        self.answers: list[str] = []
        self.errors: list[str] = []

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._stop.wait(0.005):
            try:
                with urllib.request.urlopen(self._url, timeout=10) as answer:
                    self.answers.append(answer.read().decode())
            except OSError as error:
                self.errors.append(repr(error))
