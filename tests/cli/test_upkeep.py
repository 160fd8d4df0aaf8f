from __future__ import annotations

import json
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fusemld.api import views
from tests.api.memory import MemoryOperations

Cli = Callable[..., subprocess.CompletedProcess[str]]

RUNS = views.UpkeepPart(what="runs", removed=12, kept=3, kept_by={"recent": 2, "unfinished": 1})
LOGS = views.UpkeepPart(what="logs of runs", removed=1, removed_bytes=1536, kept=1, kept_bytes=3 * 1024**3)


def test_gc_says_what_went_and_what_keeps_the_rest(fuseml: Cli, operations: MemoryOperations) -> None:
    operations.upkeep_parts += [RUNS, LOGS]

    head, runs, logs = fuseml("gc").stdout.splitlines()

    assert head.split() == ["WHAT", "REMOVED", "SIZE", "KEPT", "SIZE", "BECAUSE"]
    assert runs.split(maxsplit=3) == ["runs", "12", "3", "2 recent, 1 unfinished"]
    assert logs.split() == ["logs", "of", "runs", "1", "1.5", "KiB", "1", "3.0", "GiB"]
    assert operations.asked == [("gc", "False")]


def test_a_dry_run_says_that_nothing_went(fuseml: Cli, operations: MemoryOperations) -> None:
    operations.upkeep_parts.append(RUNS)

    assert "WOULD GO" in fuseml("gc", "--dry-run").stdout
    assert json.loads(fuseml("gc", "--dry-run", "-o", "json").stdout)["parts"][0]["removed"] == 12
    assert operations.asked == [("gc", "True")] * 2


def test_where_a_part_of_gc_fails_the_others_are_shown_and_it_is_a_failure(
    fuseml: Cli, operations: MemoryOperations
) -> None:
    failed = views.UpkeepPart(what="environments", error="No space left on device")
    operations.upkeep_parts += [RUNS, failed]

    done = fuseml("gc")

    assert done.returncode != 0
    assert "2 recent, 1 unfinished" in done.stdout
    assert "cannot remove all that may go: environments: No space left on device" in done.stderr


def test_a_backup_is_a_private_file(fuseml: Cli, operations: MemoryOperations, tmp_path: Path) -> None:
    operations.backup_chunks += [b"one ", b"two"]
    file = tmp_path / "b.db"

    done = fuseml("backup", str(file))

    assert done.returncode == 0
    assert file.read_bytes() == b"one two"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]
    assert f"the database is in {file} (7 B)" in done.stdout


def test_a_program_learns_how_large_a_backup_is(fuseml: Cli, operations: MemoryOperations, tmp_path: Path) -> None:
    operations.backup_chunks += [b"one ", b"two"]
    file = tmp_path / "b.db"

    assert json.loads(fuseml("backup", str(file), "-o", "json").stdout) == {"file": str(file), "size_bytes": 7}


@pytest.mark.parametrize("target", ["file", "folder", "link"])
def test_a_backup_overwrites_nothing_unless_it_is_told_to(
    fuseml: Cli, operations: MemoryOperations, tmp_path: Path, target: str
) -> None:
    operations.backup_chunks.append(b"new")
    file = tmp_path / "b.db"
    match target:
        case "file":
            file.write_text("old")
        case "folder":
            file.mkdir()
        case _:
            file.symlink_to("nowhere")

    refused = fuseml("backup", str(file))
    forced = fuseml("backup", str(file), "--force")

    assert refused.returncode in (2, 6)
    assert forced.returncode == (2 if target == "folder" else 0)
    assert target == "folder" or file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_backup_that_breaks_off_leaves_the_old_file_and_nothing_else(
    fuseml: Cli, operations: MemoryOperations, tmp_path: Path
) -> None:
    operations.backup_chunks += [b"new", b""]
    file = tmp_path / "b.db"
    file.write_text("old")

    done = fuseml("backup", str(file), "--force")

    assert done.returncode != 0
    assert "went away" in done.stderr
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_backup_into_a_folder_that_is_not_there_is_one_message(fuseml: Cli, tmp_path: Path) -> None:
    done = fuseml("backup", str(tmp_path / "nowhere" / "b.db"))

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No such file or directory" in done.stderr
