"""Environments built by processes of a real keeper; packages come from folders made by the tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest

from fusemld.executors.process.client import Keeper
from fusemld.hooks.environments import EnvironmentSpec
from fusemld.hooks.steps import RuntimeFolders
from fusemld.model.errors import StartError
from fusemld.services.environments import KeeperEnvironments

Open = Callable[[], AbstractAsyncContextManager[KeeperEnvironments]]

EMPTY = EnvironmentSpec(label="nothing", requirements="")


@pytest.fixture
def open_environments(state: Path) -> Open:
    @contextlib.asynccontextmanager
    async def open_() -> AsyncIterator[KeeperEnvironments]:
        keeper = Keeper(state, idle_s=1.0)
        folders = RuntimeFolders(environments=state / "environments", cache=state / "cache")
        async with anyio.create_task_group() as tasks:
            environments = KeeperEnvironments(keeper, folders, state / "logs")
            await tasks.start(lambda *, task_status: keeper.run(task_status=task_status))
            yield environments
            tasks.cancel_scope.cancel()

    return open_


async def test_an_environment_is_built_with_progress_and_reused_with_a_note(open_environments: Open) -> None:
    notes: list[str] = []
    async with open_environments() as environments:
        folder = await environments.ensure(EMPTY, notes.append)

        assert (folder / "bin" / "python").exists()
        assert any("installing: nothing" in note for note in notes)

        notes.clear()

        assert await environments.ensure(EMPTY, notes.append) == folder
        assert notes == [f"reusing environment {EMPTY.key[:8]} of nothing"]


async def test_asking_at_once_shares_one_build_and_its_progress(open_environments: Open, state: Path) -> None:
    notes: tuple[list[str], ...] = ([], [], [])
    async with open_environments() as environments:
        async with anyio.create_task_group() as tasks:
            for heard in notes:
                tasks.start_soon(environments.ensure, EMPTY, heard.append)

        assert len(list((state / "logs").glob("*.log"))) == 1
        assert all(any("installing: nothing" in note for note in heard) for heard in notes)


async def test_a_build_goes_on_without_its_daemon_and_is_joined_by_the_next(
    open_environments: Open, state: Path
) -> None:
    begun = anyio.Event()
    async with open_environments() as environments, anyio.create_task_group() as tasks:
        tasks.start_soon(environments.ensure, EMPTY, lambda _: begun.set())
        await begun.wait()
        tasks.cancel_scope.cancel()

    async with open_environments() as environments:
        folder = await environments.ensure(EMPTY, lambda _: None)

    assert (folder / "bin" / "python").exists()
    assert len(list((state / "logs").glob("*.log"))) == 1


async def test_a_build_that_fails_is_an_error_in_the_installers_words(open_environments: Open) -> None:
    spec = EnvironmentSpec(label="the impossible", requirements="--no-index\nno-such-package==1\n")
    async with open_environments() as environments:
        with pytest.raises(
            StartError, match=r"(?s)^cannot build the environment of the impossible: .*no-such-package"
        ):
            await environments.ensure(spec, lambda _: None)
