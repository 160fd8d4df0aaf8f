"""Crashes at what no run passes, or only some: copies of codesets and of the database, a host that went down, and
the keeper's journal when it is written anew."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from fusemld.executors.process.recovery import JOURNAL_LOST
from tests.acceptance.daemon import Daemon, gone, keepers, processes_of_steps, runs
from tests.acceptance.ledger import Ledger, attempts, numbers, step
from tests.acceptance.lives import Life, crash_host

pytestmark = pytest.mark.acceptance

MANY = 320
"""So many that the keeper's journal, with four lines for each, is written anew."""


@pytest.fixture
def ledger(daemon: Daemon) -> Ledger:
    return Ledger(daemon)


def is_killed(daemon: Daemon) -> bool:
    assert daemon.process is not None
    return daemon.process.wait(timeout=20) == -signal.SIGKILL


def test_a_codeset_whose_copy_is_not_in_its_place_is_copied_again(daemon: Daemon, ledger: Ledger) -> None:
    data = daemon.codesets / "data"
    data.mkdir()
    (data / "words").write_text("some words")
    daemon.drop("data.yaml", f"name: data\nproject: demo\npath: {data}\n")
    mounted = "    inputs: [{name: data, codeset: {name: demo/data, path: /project}}]\n"
    daemon.drop(
        "reads.yaml",
        "name: reads\nsteps:\n" + step("read", f"{ledger.work} cat words; {ledger.done}", mounted),
    )

    died = Life(daemon, "codesets.copied").ends()
    left = list((daemon.state / "codesets" / "tmp").iterdir())
    daemon.start()
    view = daemon.finished(daemon.wait_for(lambda: [run.id for run in runs(daemon)], 10, "the run")[0])

    assert died
    assert len(left) == 1
    assert view["state"] == "succeeded"
    assert "some words" in daemon.run("fuseml", "logs", view["id"], "read").stdout
    assert not list((daemon.state / "codesets" / "tmp").iterdir())
    ledger.assert_nothing_twice()


def test_a_backup_that_was_cut_short_is_no_backup(daemon: Daemon, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    daemon.spawn("backup.copied")
    daemon.wait_for(lambda: daemon.run("fuseml", "runs", check=False).returncode == 0, 30, "the daemon")

    cut_short = daemon.run("fuseml", "backup", str(copy), check=False)
    died, was_there = is_killed(daemon), copy.exists()
    left = list(daemon.state.rglob("*.partial"))
    daemon.start()
    still_left = list(daemon.state.rglob("*.partial"))
    daemon.run("fuseml", "backup", str(copy))

    assert died
    assert cut_short.returncode == 4
    assert not was_there
    assert (len(left), still_left) == (1, [])
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name] == ["copy.db"]


def test_what_went_down_with_the_host_is_still_known_when_the_next_daemon_dies_too(
    daemon: Daemon, ledger: Ledger
) -> None:
    daemon.drop("host.yaml", "name: host\nsteps:\n" + step("during", ledger.endless))
    daemon.start()
    run = daemon.run_of("host.yaml")
    daemon.in_state(run, "during", "running")
    daemon.wait_for(lambda: ledger.count("began"), 10, "the step to begin")

    crash_host(daemon, is_journal_lost=True)
    ledger.again.touch()
    daemon.spawn("executor.booted")
    died = is_killed(daemon)
    daemon.start()
    view = daemon.finished(run)

    assert died
    assert view["state"] == "succeeded"
    assert numbers(view) == {"during": [1, 2]}
    assert "the host went down" in attempts(view, "during")[1]["reason"]
    ledger.assert_nothing_twice()


@pytest.mark.parametrize("is_daemon_killed", [False, True])
def test_a_keeper_that_loses_its_journal_and_dies_costs_an_attempt_and_nothing_runs_twice(
    daemon: Daemon, ledger: Ledger, is_daemon_killed: bool
) -> None:
    daemon.drop("long.yaml", "name: long\nsteps:\n" + step("during", ledger.endless))
    daemon.start()
    run = daemon.run_of("long.yaml")
    daemon.in_state(run, "during", "running")
    daemon.wait_for(lambda: ledger.count("began"), 10, "the step to begin")
    before = processes_of_steps(daemon)

    ledger.again.touch()
    (daemon.state / "keeper" / "journal").unlink()
    if is_daemon_killed:
        daemon.kill()
    for pid in keepers(daemon):
        os.kill(pid, signal.SIGKILL)
    if is_daemon_killed:
        daemon.start()
    view = daemon.finished(run)

    assert view["state"] == "succeeded"
    assert numbers(view) == {"during": [1, 2]}
    assert JOURNAL_LOST in attempts(view, "during")[1]["reason"]
    assert before
    assert all(gone(process.pid) for process in before)
    ledger.assert_nothing_twice()


def test_a_keeper_that_dies_while_it_writes_its_journal_anew_has_lost_nothing_that_was_in_it(
    daemon: Daemon, ledger: Ledger
) -> None:
    steps = (step(f"s{number}", f"{ledger.work} {ledger.done}", "    needs: []\n") for number in range(MANY))
    daemon.drop("many.yaml", f"name: many\nsteps:\n{''.join(steps)}")

    died = Life(daemon, "keeper.compacted").ends()
    daemon.start(LIMITS_STEPS="32")
    view = daemon.finished(daemon.wait_for(lambda: [run.id for run in runs(daemon)], 10, "the run")[0])

    assert died
    assert view["state"] == "succeeded"
    assert all(attempt["ending"] == "lost" for entry in view["steps"] for attempt in entry["attempts"][:-1])
    ledger.assert_nothing_twice()
    assert not (daemon.state / "keeper" / "journal.new").exists()
