"""A daemon that is left alone for years, and one whose database is lost: retention, copies, going back to one."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from fusemld.api import views
from fusemld.executors.process.spawning import MARKER
from fusemld.model import faults
from fusemld.model.run import RunState
from fusemld.store import copying
from tests.acceptance.daemon import BIN, Daemon, processes_of_steps, runs

pytestmark = pytest.mark.acceptance

KEY = "0123456789abcdef01234567"
YEAR_S = 365 * 86_400.0
FAULTS = [name for name in faults.UPKEEP_POINTS if name.startswith(("retention.", "codesets.discarded"))]


class Ledger:
    """What the steps themselves write down."""

    def __init__(self, daemon: Daemon) -> None:
        self.file = daemon.base / "ledger"
        self.file.touch()

    def script(self, work: str = "true") -> str:
        """`MARKER` holds what names the attempt, after a colon."""
        key = f"${{{MARKER}#*:step/}}"
        return f"echo began {key} >> {self.file}; echo working; {work}; echo ended {key} >> {self.file}"

    def count(self, word: str) -> Counter[str]:
        return Counter(line.split()[1] for line in self.file.read_text().splitlines() if line.startswith(word))


@pytest.fixture
def ledger(daemon: Daemon) -> Ledger:
    return Ledger(daemon)


def workflow(name: str, *scripts: str) -> str:
    steps = (
        f"  - name: s{number}\n    image: host\n    command: [sh, -c, '{script}']\n"
        for number, script in enumerate(scripts)
    )
    return f"name: {name}\ninputs: [{{name: number}}]\nsteps:\n{''.join(steps)}"


def drop_requests(daemon: Daemon, file: str, workflow: str, count: int) -> None:
    requests = (f"workflow: {workflow}\ninputs: {{number: '{number}'}}\n" for number in range(count))
    daemon.drop(file, "---\n".join(requests))


def all_runs(daemon: Daemon) -> list[views.RunSummary]:
    return runs(daemon, limit="10000")


def finished(daemon: Daemon) -> list[str]:
    return [run.id for run in all_runs(daemon) if run.state is not RunState.RUNNING]


def long_unused(daemon: Daemon) -> dict[str, Path]:
    """What a daemon of long ago has left: an environment, a copy of a codeset, and logs of a run."""
    environment = daemon.state / "python" / "environments" / KEY
    copy = daemon.state / "codesets" / "content" / "sha256-1"
    logs = daemon.state / "logs" / "gone-run"
    for folder in (environment / "lib", copy, logs):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "file").write_text("x" * 5000)
    marker = environment / "fusemld-environment.json"
    marker.write_text("{}")
    for path in (marker, copy):
        os.utime(path, (time.time() - YEAR_S,) * 2)
    return {"environments": environment, "copies of codesets": copy, "logs of runs": logs}


@pytest.mark.parametrize("point", ["none", *FAULTS])
def test_what_may_go_goes_also_when_the_daemon_is_killed_in_the_middle(
    daemon: Daemon, ledger: Ledger, point: str
) -> None:
    gate = daemon.base / "gate"
    waits = f"until test -e {gate}; do sleep 0.05; done"
    daemon.drop("quick.yaml", workflow("quick", ledger.script()))
    daemon.drop("long.yaml", workflow("long", ledger.script(waits), ledger.script()))
    drop_requests(daemon, "requests.yaml", "quick", 5)
    drop_requests(daemon, "stays.yaml", "long", 1)
    daemon.start(RETENTION_RUNS_S="1", RETENTION_EVERY_S="0", LIMITS_STEPS="4")
    daemon.wait_for(lambda: len(finished(daemon)) == 5, 30, "five runs")
    (stays,) = [run.id for run in all_runs(daemon) if run.workflow == "long"]
    daemon.in_state(stays, "s0", "running")
    daemon.kill()
    daemon.environment[faults.VARIABLE] = point
    daemon.start()
    unused = long_unused(daemon)
    time.sleep(1)  # the runs get old enough

    before = {part["what"]: part for part in daemon.json("gc", "--dry-run")["parts"]}
    there = all(folder.exists() for folder in unused.values())
    first = daemon.run("fuseml", "gc", check=False)
    if point != "none":
        assert daemon.process is not None
        assert daemon.process.wait(timeout=10) == -signal.SIGKILL
        del daemon.environment[faults.VARIABLE]
        daemon.start()
        for run in all_runs(daemon):  # what is shown is whole
            assert len(daemon.json("get", run.id)["steps"]) == (2 if run.id == stays else 1)
    daemon.run("fuseml", "gc")
    after = {part["what"]: part for part in daemon.json("gc")["parts"]}
    gate.touch()
    view = daemon.finished(stays)

    assert there
    assert (first.returncode == 0) is (point == "none")
    assert [before[what]["removed"] for what in ("runs", "environments", "copies of codesets")] == [5, 1, 1]
    assert before["logs of runs"]["removed"] >= 1
    assert all(part["removed"] == 0 for part in after.values())
    assert view["state"] == "succeeded"
    assert [run.id for run in all_runs(daemon)] == [stays]
    assert sorted(path.name for path in (daemon.state / "logs").iterdir() if "-" in path.name) == [stays]
    assert not [folder for folder in unused.values() if folder.exists()]
    assert not [path for place in daemon.state.rglob(".trash") for path in place.iterdir()]
    assert not list((daemon.state / "codesets" / "tmp").iterdir())
    assert daemon.file("stays.yaml")["run"] == stays
    assert max(ledger.count("began").values()) == 1


def test_nothing_runs_twice_after_going_back_to_a_copy_that_was_made_under_load(
    daemon: Daemon, ledger: Ledger
) -> None:
    copy = daemon.base / "copy.db"
    daemon.drop("one.yaml", workflow("one", ledger.script("sleep 0.1")))
    daemon.drop("chain.yaml", workflow("chain", *[ledger.script("sleep 0.1")] * 3))
    daemon.start(LIMITS_STEPS="8")
    for number in range(4):
        drop_requests(daemon, f"early-{number}.yaml", ("one", "chain")[number % 2], 75)
    daemon.wait_for(lambda: len(all_runs(daemon)) == 300 and len(finished(daemon)) > 20, 60, "some runs to end")

    daemon.run("fuseml", "backup", str(copy))
    with closing(sqlite3.connect(copy)) as connection:
        damage = copying.damage(connection)
        rows = connection.execute("SELECT id, finished_at IS NOT NULL FROM runs").fetchall()
    known = {run for run, _ in rows}
    over = {run for run, is_over in rows if is_over}
    drop_requests(daemon, "late.yaml", "one", 20)
    daemon.wait_for(lambda: len(finished(daemon)) > len(over) + 40, 60, "more runs to end")
    daemon.kill()
    restored = daemon.run("fusemld", "restore", str(copy))
    left_running = processes_of_steps(daemon)
    daemon.start()
    after = {run.id: run for run in all_runs(daemon)}
    retried = sorted(known - over)[:20]
    for run in retried:
        daemon.run("fuseml", "retry", run)
    drop_requests(daemon, "new.yaml", "chain", 5)
    daemon.wait_for(lambda: len(finished(daemon)) == len(known) + 5, 60, "the runs that go on")
    views = {run: daemon.json("get", run) for run in retried}

    assert damage == ""
    assert 20 < len(over) < len(known) == 300
    assert f"restored 300 runs from {copy}" in restored.stdout
    assert left_running == []
    assert after.keys() == known
    assert {run for run, view in after.items() if view.state is RunState.SUCCEEDED} == over
    assert all("`fuseml retry` goes on with it" in after[run].message for run in known - over)
    assert {view["state"] for view in views.values()} == {"succeeded"}
    assert all(
        step["attempts"][-1]["number"] == 1 or step["attempts"][-1]["number"] > 1000
        for view in views.values()
        for step in view["steps"]
    )
    late = daemon.documents("late.yaml")
    assert {(entry["state"], entry["run"]) for entry in late} == {("waiting", None)}
    assert all("to run it, remove the file and drop it again" in entry["detail"] for entry in late)
    assert max(ledger.count("began").values()) == 1
    with closing(sqlite3.connect(daemon.state / "fusemld.db")) as connection:
        assert copying.damage(connection) == ""


def test_a_running_daemon_keeps_its_database(daemon: Daemon) -> None:
    copy = daemon.base / "copy.db"
    daemon.start()
    daemon.run("fuseml", "backup", str(copy))

    refused = daemon.run("fusemld", "restore", str(copy), check=False)

    assert refused.returncode == 1
    assert "a daemon (process" in refused.stderr


def test_a_program_learns_what_was_copied_stopped_and_restored(daemon: Daemon) -> None:
    copy = daemon.base / "copy.db"
    daemon.start()

    written = daemon.json("backup", str(copy))
    stopped, restored, ended = (
        json.loads(daemon.run("fusemld", *arguments, "-o", "json").stdout)
        for arguments in (("stop",), ("restore", str(copy)), ("stop", "--all"))
    )

    assert written == {"file": str(copy), "size_bytes": copy.stat().st_size}
    assert stopped == {"stopped": True, "everything": False}
    assert (restored["runs"], restored["ended"]) == (0, [])
    assert Path(restored["replaced"]).exists()
    assert ended == {"stopped": False, "everything": True}


@pytest.mark.parametrize("at_rest", [False, True])
def test_a_request_that_changed_while_no_daemon_ran_is_noticed_though_it_looks_the_same(
    daemon: Daemon, ledger: Ledger, at_rest: bool
) -> None:
    daemon.drop("chain.yaml", workflow("chain", ledger.script()))
    file = daemon.drop("ask.yaml", "workflow: chain\ninputs: {number: '1'}\n")
    daemon.start()
    daemon.finished(daemon.run_of("ask.yaml"))

    def is_remembered() -> bool:
        with closing(sqlite3.connect(daemon.state / "fusemld.db")) as connection:
            rows = connection.execute("SELECT key, data FROM files").fetchall()
        return [(key, json.loads(data)["at_rest"]) for key, data in rows] == [("ask.yaml", at_rest)]

    daemon.wait_for(is_remembered, 20, "the file to be remembered")
    daemon.kill()
    daemon.start()
    same = len(all_runs(daemon))
    daemon.kill()
    before = file.stat()
    with file.open("r+") as opened:
        opened.write("workflow: chain\ninputs: {number: '2'}\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    daemon.start()
    daemon.wait_for(lambda: len(finished(daemon)) == 2, 20, "the second run")

    assert same == 1
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert {run.inputs["number"] for run in all_runs(daemon)} == {"1", "2"}


def test_a_daemon_that_migrates_is_killed_and_the_next_one_does_it(daemon: Daemon) -> None:
    daemon.start()
    daemon.terminate()
    database = daemon.state / "fusemld.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        for table in ("output_links", "output_files", "files"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("PRAGMA user_version = 1")

    killed = subprocess.run(
        [BIN / "fusemld", "run"],
        env=daemon.environment | {faults.VARIABLE: "store.migrating"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    with closing(sqlite3.connect(database)) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    daemon.start()

    assert killed.returncode == -signal.SIGKILL
    assert version == 1
    assert [path.name.split(".")[2] for path in daemon.state.glob("fusemld.db.schema-*")] == ["schema-1"] * 2
