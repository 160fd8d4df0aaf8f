"""Which copies of codesets go, and which never do."""

from __future__ import annotations

import os
import time

import pytest

from fusemld.codesets.cache import KEPT_S
from fusemld.model.errors import NotFoundError
from fusemld.model.run import RunState, StepState
from fusemld.store.changes import PutRun
from tests.daemon.retaining import DAY, NOW, Host, OpenHost, stored


def copies(there: Host) -> list[str]:
    """What is in the copies that are there."""
    return sorted(file.read_text()[:1] for file in (there.state / "codesets" / "content").glob("*/a.txt"))


async def test_copies_of_codesets_go_unless_a_run_needs_them(host: OpenHost) -> None:
    async with host() as there:
        pins = {name: await there.pinned(name, 40) for name in ("unused", "failed")}
        await there.pinned("recent", 1)
        await there.ended("r1", 1, RunState.FAILED, codesets={"failed": pins["failed"]})
        await there.ended("r2", 1, RunState.SUCCEEDED, codesets={"unused": pins["unused"]})

        would = await there.collect(dry_run=True, codesets_s=7 * DAY)
        went = await there.collect(codesets_s=7 * DAY)

        assert would["copies of codesets"] == went["copies of codesets"]
        assert went["copies of codesets"].kept_by == {
            "used by a run that goes on or can be retried": 1,
            "recent": 1,
        }
        assert (await there.codesets.source(pins["failed"])).is_dir()
        with pytest.raises(NotFoundError):
            await there.codesets.source(pins["unused"])


async def test_where_a_run_cannot_be_read_no_copy_of_a_codeset_goes(host: OpenHost) -> None:
    async with host() as there:
        pinned = await there.pinned("code", 40)
        await there.ended("r1", 1, RunState.FAILED, codesets={"code": pinned})
        await there.ended("r2", 100)
        there.damage("UPDATE run_details SET data = '{' WHERE run = 'r1'")

        parts = await there.collect(codesets_s=7 * DAY, runs_s=90 * DAY)

        assert parts["copies of codesets"].kept_by == {"perhaps used by a run that cannot be read": 1}
        assert (await there.codesets.source(pinned)).is_dir()
        assert await there.runs() == ["r1"], "what has nothing to do with it goes on"


async def test_where_copies_are_too_much_those_asked_for_longest_ago_go(host: OpenHost) -> None:
    async with host() as there:
        for days_ago, name in enumerate("abcd", start=1):
            await there.pinned(name, days_ago, 1_000_000)

        would = await there.collect(dry_run=True, codesets_bytes=2_200_000)
        went = await there.collect(codesets_bytes=2_200_000)

        assert would["copies of codesets"] == went["copies of codesets"]
        assert copies(there) == ["a", "b"]
        assert went["copies of codesets"].kept_bytes <= 2_200_000
        assert went["copies of codesets"].kept_by == {"recent": 2}


@pytest.mark.parametrize("state", [RunState.RUNNING, RunState.FAILED, RunState.CANCELLED])
async def test_however_much_it_is_a_copy_that_a_run_may_need_stays(host: OpenHost, state: RunState) -> None:
    async with host() as there:
        pins = {"code": await there.pinned("needed", 50, 100_000)}
        await there.pinned("unused", 1, 100_000)
        finished_at = None if state is RunState.RUNNING else NOW - DAY
        step = StepState.RUNNING if state is RunState.RUNNING else StepState.FAILED
        await there.store.write(PutRun(stored("r1", finished_at, state, step, codesets=pins)))

        parts = await there.collect(codesets_bytes=1)

        assert copies(there) == ["n"]
        assert parts["copies of codesets"].kept_by == {"used by a run that goes on or can be retried": 1}


@pytest.mark.parametrize(("kept_s", "limit_bytes"), [(1, 0), (0, 1)])
async def test_a_copy_that_was_asked_for_within_the_hour_stays_and_a_dry_run_says_so(
    host: OpenHost, kept_s: float, limit_bytes: int
) -> None:
    async with host() as there:
        there.engine.clock.now = time.time()
        await there.pinned("lately", (NOW - time.time() + KEPT_S / 2) / DAY)

        would = await there.collect(dry_run=True, codesets_s=kept_s, codesets_bytes=limit_bytes)
        went = await there.collect(codesets_s=kept_s, codesets_bytes=limit_bytes)

        assert went["copies of codesets"].kept_by == {"recent": 1}
        assert would == went
        assert copies(there) == ["l"]


async def test_the_mirror_of_a_repository_counts_and_goes_with_the_copies(host: OpenHost) -> None:
    async with host() as there:
        mirror = there.state / "codesets" / "mirrors" / "0.git"
        mirror.mkdir(parents=True)
        (mirror / "pack").write_bytes(b"x" * 100_000)
        os.utime(mirror, (NOW - 5 * DAY,) * 2)
        await there.pinned("newer", 1)

        within = await there.collect(codesets_bytes=200_000)
        beyond = await there.collect(codesets_bytes=50_000)

        assert within["copies of codesets"].removed == 0
        assert beyond["copies of codesets"].removed == 1
        assert copies(there) == ["n"]
