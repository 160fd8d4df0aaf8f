"""Which environments and downloads go, and which never do."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from fusemld.hooks.building import find_environment
from fusemld.hooks.environments import EnvironmentSpec
from fusemld.hooks.steps import RuntimeFolders
from fusemld.model.run import RunState, StepState
from fusemld.model.service import ServiceRecord
from fusemld.store.changes import PutRun, PutService
from tests.daemon.retaining import DAY, HELLO, KEY, NOW, OpenHost, stored


async def test_environments_go_that_nobody_has_asked_for(host: OpenHost) -> None:
    async with host() as there:
        old, new = there.environment(KEY, 40), there.environment("f" * 24, 10)

        would = await there.collect(dry_run=True, environments_s=30 * DAY)
        went = await there.collect(environments_s=30 * DAY)

        assert not old.exists()
        assert new.exists()
        assert would["environments"] == went["environments"]


async def test_asking_for_an_environment_keeps_it(host: OpenHost) -> None:
    async with host() as there:
        folder = there.environment(KEY, 40)
        there.engine.clock.now = folder.stat().st_mtime

        assert find_environment(KEY, there.folders) == folder
        await there.collect(environments_s=30 * DAY)

        assert folder.exists()


@pytest.mark.parametrize("state", [RunState.RUNNING, RunState.FAILED, RunState.CANCELLED])
async def test_an_environment_that_a_run_may_need_stays(host: OpenHost, state: RunState) -> None:
    async with host() as there:
        there.environment(KEY, 400)
        finished_at = None if state is RunState.RUNNING else NOW - DAY
        step = StepState.RUNNING if state is RunState.RUNNING else StepState.FAILED
        image = {"environment": f"localhost/fusemld/mlflow-project:{KEY}"}
        await there.store.write(PutRun(stored("r1", finished_at, state, step, outputs=image)))

        parts = await there.collect(environments_s=30 * DAY)

        assert parts["environments"].kept_by == {"used by a run that goes on or can be retried": 1}


async def test_an_environment_whose_run_succeeded_goes(host: OpenHost) -> None:
    async with host() as there:
        folder = there.environment(KEY, 400)
        await there.ended("r1", 1, outputs={"environment": f"x:{KEY}"})

        await there.collect(environments_s=30 * DAY)

        assert not folder.exists()


async def test_an_environment_that_a_document_names_stays(host: OpenHost) -> None:
    async with host() as there:
        there.environment(KEY, 400)
        await there.see(w=HELLO.replace("image: host", f"image: 'x.example/p:{KEY}'"))

        parts = await there.collect(environments_s=30 * DAY)

        assert parts["environments"].removed == 0


async def test_the_environment_of_a_service_stays(host: OpenHost) -> None:
    async with host() as there:
        key = EnvironmentSpec(label="", requirements="numpy").key
        there.environment(key, 400)
        there.environment(KEY, 400)
        await there.store.write(
            PutService(
                ServiceRecord(name="s", kind="server", parameters={"requirements": "numpy"}, host="h", port=1)
            )
        )

        parts = await there.collect(environments_s=30 * DAY)

        assert parts["environments"].kept_by == {"used by a service": 1}
        assert parts["environments"].removed == 1


@pytest.mark.parametrize(("kind", "parameters"), [("unknown", {}), ("server", {})])
async def test_where_a_service_cannot_say_what_it_uses_nothing_goes(
    host: OpenHost, kind: str, parameters: dict[str, str]
) -> None:
    async with host() as there:
        there.environment(KEY, 400)
        record = ServiceRecord(name="odd", kind=kind, parameters=parameters, host="h", port=1)
        await there.store.write(PutService(record))

        parts = await there.collect(environments_s=30 * DAY)

        assert parts["environments"].kept_by == {"perhaps used by the service odd, which does not say": 1}


async def test_the_environment_of_a_running_process_stays(host: OpenHost) -> None:
    async with host() as there:
        folder = there.environment(KEY, 400)
        command = [str(folder / "bin" / "python"), "-c", "print(1, flush=True); input()"]
        async with await anyio.open_process(command, stderr=None) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            await process.stdout.receive()
            parts = await there.collect(environments_s=30 * DAY)
            await process.stdin.send(b"\n")
            await process.wait()
        later = await there.collect(environments_s=30 * DAY)

        assert parts["environments"].kept_by == {"used by a running process": 1}
        assert later["environments"].removed == 1


async def test_where_environments_are_too_many_those_asked_for_longest_ago_go(host: OpenHost) -> None:
    async with host() as there:
        folders = [there.environment(f"{number:024x}", 10 - number) for number in range(4)]
        for folder in folders:
            (folder / "data").write_bytes(b"x" * 1_000_000)

        await there.collect(environments_bytes=2_200_000)

        assert [folder.exists() for folder in folders] == [False, False, True, True]


async def test_what_was_downloaded_goes_when_it_is_too_much_and_environments_keep_their_files(
    host: OpenHost,
) -> None:
    async with host() as there:
        cache = there.folders.cache
        (cache / "archive-v0").mkdir(parents=True)
        (cache / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55")
        (cache / "archive-v0" / "data").write_bytes(b"x" * 100_000)
        kept = there.environment(KEY, 1) / "data"
        kept.hardlink_to(cache / "archive-v0" / "data")

        within = await there.collect(downloads_bytes=1_000_000)
        would = await there.collect(dry_run=True, downloads_bytes=50_000)
        went = await there.collect(downloads_bytes=50_000)

        assert within["downloads of uv"].kept_by == {"within the limit": 1}
        assert would["downloads of uv"] == went["downloads of uv"]
        assert went["downloads of uv"].removed_bytes > 100_000
        assert not (cache / "archive-v0").exists()
        assert kept.stat().st_size == 100_000


async def test_a_cache_elsewhere_is_left_alone(host: OpenHost, tmp_path: Path) -> None:
    async with host() as there:
        there.folders = RuntimeFolders(environments=there.folders.environments, cache=tmp_path / "shared")
        there.folders.cache.mkdir()
        (there.folders.cache / "data").write_bytes(b"x" * 100_000)

        parts = await there.collect(downloads_bytes=1)

        assert parts["downloads of uv"].kept_by == {"not in the state folder": 1}
        assert (there.folders.cache / "data").exists()


async def test_where_the_record_of_a_service_cannot_be_read_no_environment_goes(host: OpenHost) -> None:
    async with host() as there:
        environment = there.environment(KEY, 400)
        await there.store.write(PutService(ServiceRecord(name="web", kind="server", host="h", port=1)))
        there.damage("UPDATE services SET data = '{'")

        parts = await there.collect(environments_s=1)

        assert environment.exists()
        assert parts["environments"].kept_by == {"perhaps used by the service web, whose record cannot be read": 1}


async def test_an_environment_that_outputs_which_cannot_be_read_may_name_stays(host: OpenHost) -> None:
    async with host() as there:
        await there.ended("failed", 1, RunState.FAILED)
        there.damage("INSERT INTO output_files VALUES ('failed', 'one', 'gone')")
        there.environment(KEY, 50)

        parts = await there.collect(environments_s=30 * DAY)

        assert parts["environments"].error == ""
        assert parts["environments"].kept_by == {"perhaps used by a run that cannot be read": 1}
