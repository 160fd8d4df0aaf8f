"""Which files with long outputs go, and which never do."""

from __future__ import annotations

from tests.daemon.retaining import DAY, OpenHost


async def test_long_outputs_go_with_their_runs(host: OpenHost) -> None:
    async with host() as there:
        await there.ended("old", 40)
        await there.ended("new", 1)
        folders = {name: await there.outputs(name) for name in ("old", "new", "nobodys")}

        would = await there.collect(dry_run=True, runs_s=30 * DAY)
        all_there = all(folder.is_dir() for folder in folders.values())
        went = await there.collect(runs_s=30 * DAY)

        assert all_there
        assert [name for name, folder in folders.items() if folder.exists()] == ["new"]
        assert would["long outputs"] == went["long outputs"]
        assert went["long outputs"].removed == 2
        assert went["long outputs"].removed_bytes >= 200_000
        assert went["long outputs"].kept_by == {"of a run that is kept": 1}


async def test_what_a_killed_daemon_has_half_removed_goes(host: OpenHost) -> None:
    async with host() as there:
        left = there.store.outputs_folder / ".trash" / "0123"
        left.mkdir(parents=True)
        (left / "file").write_text("x")

        await there.collect()

        assert not left.exists()
