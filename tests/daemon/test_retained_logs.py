"""Which logs go, and which never do."""

from __future__ import annotations

import os

from fusemld.model.service import ServiceRecord
from fusemld.store.changes import PutService
from tests.daemon.retaining import DAY, NOW, OpenHost


async def test_logs_of_runs_that_are_no_more_go_and_others_by_age(host: OpenHost) -> None:
    async with host() as there:
        await there.ended("old", 40)
        await there.ended("new", 1)
        folders = {name: there.logs(name) for name in ("old", "new", "nobodys")}

        would = await there.collect(dry_run=True, logs_s=30 * DAY)
        all_there = all(folder.is_dir() for folder in folders.values())
        went = await there.collect(logs_s=30 * DAY)

        assert all_there
        assert [name for name, folder in folders.items() if folder.exists()] == ["new"]
        assert would["logs of runs"] == went["logs of runs"]
        assert went["logs of runs"].removed == 2
        assert went["logs of runs"].removed_bytes >= 2000
        assert await there.runs() == ["new", "old"]


async def test_where_logs_are_too_many_those_of_the_runs_that_ended_first_go(host: OpenHost) -> None:
    async with host() as there:
        for number in range(5):
            await there.ended(f"r{number}", 10 - number)
            there.logs(f"r{number}", 100_000)

        parts = await there.collect(logs_bytes=350_000)

        assert sorted(path.name for path in (there.state / "logs").glob("r*")) == ["r2", "r3", "r4"]
        assert parts["logs of runs"].kept_bytes <= 350_000


async def test_logs_of_services_stay_as_long_as_these_are_recorded(host: OpenHost) -> None:
    async with host() as there:
        await there.store.write(
            PutService(ServiceRecord(name="s3", kind="server", parameters={"requirements": ""}, host="h", port=1))
        )
        for name in ("services/s3", "services/gone", "environments"):
            folder = there.state / "logs" / name
            folder.mkdir(parents=True)
            (folder / "1.log").write_text("x")
            for path in (folder / "1.log", folder):
                os.utime(path, (NOW - 40 * DAY,) * 2)

        parts = await there.collect(logs_s=30 * DAY)

        left = [str(path.relative_to(there.state / "logs")) for path in (there.state / "logs").rglob("*.log")]
        assert left == ["services/s3/1.log"]
        assert parts["logs of services and builds"].removed == 2


async def test_the_log_of_a_service_whose_record_cannot_be_read_stays(host: OpenHost) -> None:
    async with host() as there:
        logs = there.logs("services/web")
        for path in (*logs.iterdir(), logs):
            os.utime(path, (NOW - 400 * DAY,) * 2)
        await there.store.write(PutService(ServiceRecord(name="web", kind="server", host="h", port=1)))
        there.damage("UPDATE services SET data = '{'")

        await there.collect(logs_s=1)

        assert logs.is_dir()
