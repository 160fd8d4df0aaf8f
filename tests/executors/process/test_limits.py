"""Nobody starts more processes than the limit, and nothing of them is left."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from fusemld.executors.process import groups, recovery
from fusemld.executors.process.spawning import marked
from tests.acceptance import bomb

if TYPE_CHECKING:
    from tests.executors.process.conftest import Host, HostFactory

Until = Callable[[Callable[[], bool]], Awaitable[None]]

held = pytest.mark.skipif(groups.find() is None, reason="no control group is to be had here")
shared = pytest.mark.skipif(
    (place := groups.find()) is None or place.shares is None,
    reason="no hierarchy of its own shares the processors",
)
LIMIT = 20
WORDS = f"the limit of {LIMIT} processes and threads at the same time (setting process.step_processes)"
BOMB = (sys.executable, bomb.__file__)


def of_step(host: Host, key: str) -> set[int]:
    """What there is of it, wherever it went."""
    log = host.state / "keeper" / "journal"
    marker = log.read_text().split('"marker":"', 1)[1].split('"', 1)[0]
    return {pid for pid, whose in marked(marker).items() if whose == key}


async def full(host: Host, key: str, until: Until) -> set[int]:
    """The bomb at its limit."""
    await host.spawn(key, *BOMB, process_limit=LIMIT)
    await until(lambda: host.log(key).exists() and WORDS in host.log(key).read_text())
    return of_step(host, key)


@held
async def test_processes_above_the_limit_are_refused_and_the_limit_is_named(host: HostFactory) -> None:
    async with host() as opened:
        ended = await opened.shell("a", f"for i in $(seq {LIMIT}); do sleep 100 & done", process_limit=LIMIT)
        beside = await opened.shell("b", "for i in 1 2 3; do sleep 0 & done; wait", process_limit=LIMIT)

        assert ended.exit_status != 0
        assert ended.reached_limit == WORDS
        assert f"[fusemld: it has reached {WORDS}" in opened.log("a").read_text()
        assert (beside.exit_status, beside.reached_limit) == (0, "")


@held
async def test_what_forks_without_end_is_held_and_all_of_it_ends_with_its_step(
    host: HostFactory, until: Until
) -> None:
    async with host() as opened:
        assert len(await full(opened, "bomb", until)) == LIMIT
        assert (await opened.shell("beside", "sh -c 'exit 3'; exit $?", process_limit=LIMIT)).exit_status == 3

        await opened.keeper.stop("bomb", 0)
        ended = await opened.end("bomb")

        assert (ended.killed, ended.reached_limit) == (True, WORDS)
        assert of_step(opened, "bomb") == set()


@held
async def test_a_new_keeper_ends_what_forks_without_end(
    host: HostFactory, until: Until, kill_keeper: Callable[[Path], None]
) -> None:
    place = groups.find()
    assert place is not None
    async with host() as opened:
        before = await full(opened, "bomb", until)
        group = next(path for path in Path(place.base).glob("fusemld-*") if before & _pids(path))

        kill_keeper(opened.state)

        assert (await opened.end("bomb")).lost == recovery.KILLED
        assert of_step(opened, "bomb") == set()
        await until(lambda: not group.exists())


@held
async def test_groups_are_used_again_and_go_with_their_keeper(host: HostFactory, until: Until) -> None:
    place = groups.find()
    assert place is not None
    base = Path(place.base)
    async with host() as opened:
        async with anyio.create_task_group() as tasks:
            for number in range(30):
                tasks.start_soon(opened.shell, f"s/{number}", "sleep 0")
                tasks.start_soon(lambda key: opened.shell(key, "exit 0", process_limit=LIMIT), f"l/{number}")
        marker = (opened.state / "keeper" / "journal").read_text().split('"marker":"', 1)[1].split('"', 1)[0]
        pattern = f"fusemld-{marker}-*"
        await until(lambda: not any(map(_pids, base.glob(pattern))))
        before = len(list(base.glob(pattern)))
        for number in range(5):
            await opened.shell(f"again/{number}", "exit 0", process_limit=LIMIT)

        assert len(list(base.glob(pattern))) == before

    await until(lambda: not list(base.glob(pattern)))


@shared
async def test_what_runs_for_a_while_has_one_share_of_the_processors_and_gives_it_back(
    host: HostFactory, until: Until
) -> None:
    place = groups.find()
    assert place is not None
    assert place.shares is not None
    base = Path(place.shares.base)
    async with host() as opened:
        await full(opened, "bomb", until)

        def is_shared() -> bool:
            return any(of_step(opened, "bomb") <= _pids(share) for share in base.glob("fusemld-*"))

        await until(is_shared)
        (share,) = (share for share in base.glob("fusemld-*") if of_step(opened, "bomb") & _pids(share))
        await opened.keeper.stop("bomb", 0)
        await opened.end("bomb")
        await until(lambda: not share.exists())

        assert (await opened.shell("short", "exit 3", process_limit=LIMIT)).exit_status == 3
        assert not share.exists()


def _pids(group: Path) -> set[int]:
    try:
        return {int(line) for line in (group / "cgroup.procs").read_text().split()}
    except OSError:
        return set()
