"""Services whose folder, record or descriptors are wanting, or that are removed."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fusemld.hooks.services import ServiceRequest
from fusemld.model.errors import UnavailableError
from fusemld.model.service import ServiceCondition, ServiceRecord
from fusemld.services import supervisor as module
from fusemld.services.credentials import ensure_credentials
from tests.services.asking import PLAIN, SHARED, UPDATED, Eventually, Open, fetch, is_gone, silent, state_of


@pytest.mark.parametrize("name", ["mkdir", "glob"])
async def test_want_of_descriptors_ends_no_supervision_and_passes(
    open_supervisor: Open, eventually: Eventually, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    wanting = 0

    def fails(path: Path, *_: object, **__: object) -> None:
        nonlocal wanting
        wanting += 1
        raise OSError(errno.EMFILE, "Too many open files")

    async with open_supervisor() as supervisor:
        await supervisor.ensure(PLAIN, silent)
        before = state_of(supervisor, "plain").pid
        assert before is not None

        with monkeypatch.context() as patch:
            patch.setattr(Path, name, fails)
            os.kill(before, signal.SIGKILL)
            await eventually(lambda: wanting > 1, "it was tried again")

        await eventually(
            lambda: (
                (now := state_of(supervisor, "plain")).state is ServiceCondition.READY
                and now.pid not in (None, before)
            ),
            "another process is ready",
        )


async def test_a_removed_service_leaves_nothing_and_may_come_back(
    open_supervisor: Open, records: Any, state: Path
) -> None:
    async with open_supervisor() as supervisor:
        await supervisor.ensure(SHARED, silent)
        before = state_of(supervisor, "model").pid

        await supervisor.remove("model")
        await supervisor.remove("model")

        assert is_gone(before)
        assert records.saved == {}
        assert supervisor.find("model") is None
        assert not (state / "services" / "model").exists()

        address = await supervisor.ensure(UPDATED, silent)

        assert await fetch(address.url) == "new"


async def test_a_service_is_taken_up_though_descriptors_were_wanting_at_first_and_one_that_cannot_be_is_left_out(
    open_supervisor: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_supervisor() as supervisor:
        before = await supervisor.ensure(SHARED, silent)

    def fail_with(*errors: int) -> None:
        """One after the other; then it is as ever."""
        left = list(errors)

        def ensure(folder: Path, names: Sequence[str]) -> dict[str, str]:
            if left:
                raise OSError(left.pop(), "cannot be had")
            return ensure_credentials(folder, names)

        monkeypatch.setattr(module, "ensure_credentials", ensure)

    fail_with(errno.EMFILE, errno.ENFILE)
    async with open_supervisor() as supervisor:
        after = supervisor.find("model")
    fail_with(errno.EACCES)
    async with open_supervisor() as supervisor:
        refused = supervisor.find("model")

    assert after == before
    assert refused is None


async def test_of_a_service_whose_folder_is_a_link_to_another_disk_nothing_stays_there(
    open_supervisor: Open, state: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "data").mkdir(parents=True)
    (state / "services").mkdir(parents=True, exist_ok=True)
    (state / "services" / "model").symlink_to(elsewhere)
    async with open_supervisor() as supervisor:
        await supervisor.ensure(SHARED, silent)

        await supervisor.remove("model")

    assert not list(elsewhere.iterdir())
    assert not (state / "services" / "model").is_symlink()


async def test_a_service_whose_folder_cannot_be_removed_now_is_known_until_it_is(
    open_supervisor: Open, records: Any, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async with open_supervisor() as supervisor:
        await supervisor.ensure(SHARED, silent)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rmdir", fails)
            with pytest.raises(UnavailableError, match="cannot remove the folder of service model: "):
                await supervisor.remove("model")
        known = set(records.saved)
        await supervisor.remove("model")

        assert known == {"model"}
        assert records.saved == {}
        assert not (state / "services" / "model").exists()


async def test_a_service_whose_record_cannot_be_read_is_neither_started_anew_nor_removed(
    open_supervisor: Open,
) -> None:
    class Unreadable:
        async def load(self) -> Sequence[ServiceRecord]:
            return ()

        async def save(self, record: ServiceRecord) -> None:
            raise UnavailableError(f"cannot read {record.name}")

        async def delete(self, name: str) -> None:
            raise UnavailableError(f"cannot read {name}")

    async with open_supervisor(lambda processes, _: (processes, Unreadable())) as supervisor:
        with pytest.raises(UnavailableError, match="cannot read web"):
            await supervisor.ensure(ServiceRequest(name="web", kind="plain"), silent)
        with pytest.raises(UnavailableError, match="cannot read web"):
            await supervisor.remove("web")

        assert supervisor.states() == ()
