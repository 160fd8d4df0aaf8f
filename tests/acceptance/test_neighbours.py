"""Bad neighbours: whatever one workflow does, the others go on, the daemon answers, and the limit is named."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable

import pytest

from fusemld.executors.process import groups
from tests.acceptance import bomb
from tests.acceptance.daemon import Daemon, gone, processes_of_steps

pytestmark = pytest.mark.acceptance

WELL_BEHAVED = """\
name: good
inputs: [{name: number}]
outputs: [{name: sum}]
steps:
  - {name: one, image: host, outputs: [{name: value}], command: [sh, -c, 'echo 20 > $FUSEML_RESULTS_DIR/value']}
  - name: sum
    image: host
    inputs: [{name: value, value: "{{ steps.one.outputs.value }}"}]
    outputs: [{name: sum}]
    command: [sh, -c, 'echo $(sh -c "echo $((FUSEML_VALUE + 22))") > $FUSEML_RESULTS_DIR/sum']
"""
DEADLINE_S = 60.0


def ends_well(daemon: Daemon, times: int = 3) -> None:
    """The well-behaved workflow beside whatever goes on."""
    if not (daemon.folder / "good.yaml").exists():
        daemon.drop("good.yaml", WELL_BEHAVED)
        daemon.wait_for(lambda: daemon.json("workflow", "list"), DEADLINE_S, "the workflow")
    for number in range(times):
        view = daemon.finished(daemon.json("run", "good", "-i", f"number={number}")["id"], DEADLINE_S)
        assert (view["state"], view["outputs"]) == ("succeeded", {"sum": "42"}), view
    assert daemon.json("runs")


# Forks without end

PLAIN_USER = 61234
LIMIT = 60
BOMB = f"[{sys.executable}, {bomb.__file__}]"


def as_plain_user(daemon: Daemon) -> str:
    """Not root, and so bound by a user's limits, but able to read this checkout wherever it is."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv (util-linux) is not installed")
    caps = "-all,+dac_override"
    options = ["--clear-groups", "--inh-caps", caps, "--ambient-caps", caps, "--bounding-set", caps]
    daemon.command = [setpriv, "--reuid", str(PLAIN_USER), "--regid", str(PLAIN_USER), *options, *daemon.command]
    for path in (daemon.base, daemon.folder, daemon.codesets, daemon.socket.parent):
        shutil.chown(path, PLAIN_USER, PLAIN_USER)
    return f"held by the limit of the user {PLAIN_USER}"


def with_groups(_: Daemon) -> str:
    if groups.find() is None:
        pytest.skip("no control group is to be had here")
    return "held by control groups in "


@pytest.mark.parametrize("holder", [with_groups, as_plain_user])
def test_who_forks_without_end_is_held_named_and_ended(daemon: Daemon, holder: Callable[[Daemon], str]) -> None:
    what_holds = holder(daemon)
    daemon.start(PROCESS_STEP_PROCESSES=str(LIMIT), PROCESS_SANDBOX="off", STEPS_GRACE_S="0.5")
    daemon.drop("bomb.yaml", f"name: bomb\nsteps:\n  - {{name: fork, image: host, command: {BOMB}}}\n")
    run = daemon.run_of("bomb.yaml")
    daemon.wait_for(lambda: "the limit of" in daemon.run("fuseml", "logs", run).stdout, DEADLINE_S, "the limit")

    ends_well(daemon)
    log = daemon.run("fuseml", "logs", run).stdout
    pids = [process.pid for process in processes_of_steps(daemon)]
    daemon.run("fuseml", "cancel", run)
    view = daemon.finished(run)

    assert what_holds in daemon.run("fusemld", "check", check=False).stdout
    words = f"the limit of {LIMIT} processes and threads at the same time (setting process.step_processes)"
    assert f"[fusemld: it has reached {words}" in log
    assert len(pids) >= LIMIT
    assert view["state"] == "cancelled"
    assert words in daemon.run("fuseml", "why", run).stdout
    assert all(gone(pid) for pid in pids)
    assert processes_of_steps(daemon) == []
