"""Bad neighbours: whatever one workflow does, the others go on, the daemon answers, and the limit is named."""

from __future__ import annotations

import json
import re
import resource
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

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
        daemon.wait_for(
            lambda: "good" in [each["name"] for each in daemon.json("workflow", "list")],
            DEADLINE_S,
            "the workflow",
        )
    for number in range(times):
        view = daemon.finished(daemon.json("run", "good", "-i", f"number={number}")["id"], DEADLINE_S)
        assert (view["state"], view["outputs"]) == ("succeeded", {"sum": "42"}), view
    assert daemon.json("runs")


def step(name: str, script: str, more: str = "") -> str:
    return f"  - {{name: {name}, image: host, command: [sh, -c, '{script}']{more}}}\n"


def test_who_prints_without_end_gets_a_log_of_the_limit_and_a_note(daemon: Daemon) -> None:
    daemon.start(LOG_STEP_LIMIT_BYTES="100000", STEPS_GRACE_S="0.5")
    daemon.drop("flood.yaml", "name: flood\nsteps:\n" + step("flood", "exec yes flooding"))
    run = daemon.run_of("flood.yaml")
    log = daemon.state / "logs" / run / "flood.1.log"
    daemon.wait_for(lambda: log.exists() and log.stat().st_size >= 100_000, DEADLINE_S, "the limit")

    ends_well(daemon)
    daemon.run("fuseml", "cancel", run)
    view = daemon.finished(run)

    assert view["state"] == "cancelled"
    note = "[fusemld: the log is limited to 100000 bytes (setting log.step_limit_bytes)"
    assert note in daemon.run("fuseml", "logs", run).stdout
    assert log.stat().st_size < 100_200


def test_ten_thousand_steps_do_not_keep_a_slot_from_others(daemon: Daemon) -> None:
    daemon.start(LIMITS_STEPS="2")
    steps = "".join(
        f"  - {{name: s{number}, image: host, command: ['true'], needs: []}}\n" for number in range(10_000)
    )
    daemon.drop("many.yaml", f"name: many\nsteps:\n{steps}")
    run = daemon.run_of("many.yaml", DEADLINE_S)

    ends_well(daemon)
    (beside,) = [entry for entry in daemon.json("runs") if entry["id"] == run]
    why = daemon.run("fuseml", "why", run).stdout
    daemon.run("fuseml", "cancel", run)

    assert (beside["state"], beside["steps_total"]) == ("running", 10_000)
    assert 0 < beside["steps_done"] < 10_000
    assert "all 2 slots are taken (limits.steps = 2)" in why
    assert daemon.finished(run)["state"] == "cancelled"


MIB = 1024**2


def test_outputs_at_the_limit_pass_and_beyond_it_are_refused_by_name(daemon: Daemon) -> None:
    names = [f"o{number}" for number in range(8)]
    fill = f'for o in {" ".join(names)}; do head -c {MIB} /dev/zero | tr "\\\\0" x > $FUSEML_RESULTS_DIR/$o; done'
    outputs = f", outputs: [{', '.join(f'{{name: {name}}}' for name in names)}]"
    value = ', inputs: [{name: value, value: "{{ steps.s0.outputs.o0 }}"}]'
    full = "".join(step(f"s{number}", fill, f"{outputs}, needs: []") for number in range(4))
    daemon.start()
    daemon.drop("full.yaml", f"name: full\nsteps:\n{full}")
    daemon.drop(
        "over.yaml", "name: over\nsteps:\n" + step("s0", f"{fill}; echo x >> $FUSEML_RESULTS_DIR/o3", outputs)
    )
    daemon.drop("used.yaml", "name: used\nsteps:\n" + step("s0", fill, outputs) + step("s1", "true", value))

    ends_well(daemon)
    runs = {name: daemon.finished(daemon.run_of(f"{name}.yaml"), DEADLINE_S) for name in ("full", "over", "used")}

    assert runs["full"]["state"] == "succeeded", runs["full"]["message"]
    assert all(set(each["outputs"].values()) == {"x" * MIB} for each in runs["full"]["steps"])
    assert f"output o3 is refused: it has {MIB + 2} bytes; at most {MIB} are allowed" in runs["over"]["message"]
    assert f"variable FUSEML_VALUE has {MIB + 13} bytes" in runs["used"]["message"]
    assert "at most 131071" in daemon.run("fuseml", "why", runs["used"]["id"]).stdout


def test_values_that_would_fill_the_memory_are_refused_by_name(daemon: Daemon) -> None:
    """A small file may ask for gigabytes: 1 MiB, two thousand times."""
    fill = f"head -c {MIB} /dev/zero > $FUSEML_RESULTS_DIR/o"
    gives = "steps:\n" + step("s0", fill, ", outputs: [{name: o}]")
    much = "{{ steps.s0.outputs.o }}" * 2000
    daemon.start()
    daemon.drop("out.yaml", f"name: out\noutputs: [{{name: all, value: '{much}'}}]\n{gives}")
    daemon.drop("in.yaml", "name: in\n" + gives + step("s1", "true", f', inputs: [{{name: v, value: "{much}"}}]'))
    named = "p{{ inputs.x }}" * 2000
    mount = f", inputs: [{{name: c, codeset: {{name: '{named}', path: /project}}}}]"
    inputs = f"inputs: [{{name: x, default: '{'x' * 500_000}'}}]"
    daemon.drop("name.yaml", f"name: name\n{inputs}\nsteps:\n" + step("s0", "true", mount))
    runs = {name: daemon.finished(daemon.run_of(f"{name}.yaml"), DEADLINE_S) for name in ("out", "in")}
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    (most_kib,) = re.findall(r"VmHWM:\s+(\d+) kB", status)

    ends_well(daemon)
    what = "cannot render {{ steps.s0.outputs.o }}: with it, the values have more than the %s characters together"
    assert what % f"{MIB:,}" in runs["out"]["message"]
    assert what % f"{64 * MIB:,}" in runs["in"]["message"]
    (file,) = [each for each in daemon.json("files") if each["path"] == "name.yaml"]
    assert file["state"] == "rejected"
    assert "cannot render {{ inputs.x }}: with it, the values have more than the 4,096" in file["detail"]
    assert int(most_kib) < 512 * 1024


def test_outputs_beyond_what_all_together_may_have_are_refused_and_hold_up_nobody(daemon: Daemon) -> None:
    names = [f"o{number}" for number in range(300)]
    outputs = f", outputs: [{', '.join(f'{{name: {name}}}' for name in names)}], needs: []"
    one = f"truncate -s {MIB} $FUSEML_RESULTS_DIR/o0"
    fill = f"{one}; for n in $(seq 299); do ln $FUSEML_RESULTS_DIR/o0 $FUSEML_RESULTS_DIR/o$n; done"
    daemon.start()
    daemon.drop("wide.yaml", "name: wide\nsteps:\n" + step("s0", fill, outputs) + step("s1", fill, outputs))
    run = daemon.finished(daemon.run_of("wide.yaml"), DEADLINE_S)

    ends_well(daemon)
    daemon.kill()
    daemon.start()
    ends_well(daemon)
    daemon.run("fusemld", "stop", "--all")

    assert run["state"] == "failed"
    reason = f"with it, the outputs have more than the {64 * MIB} bytes together that are allowed"
    assert f"output o64 is refused: {reason}" in run["message"]


def test_a_file_that_is_rewritten_all_the_time_holds_up_nobody_and_counts_as_it_is_left(daemon: Daemon) -> None:
    def text(number: int) -> str:
        return (
            f"name: restless\ndescription: 'v{number}'\ninputs: [{{name: x}}]\nsteps: [{{name: a, image: host}}]\n"
        )

    def rewrite() -> None:
        number = 0
        while not over.wait(0.01):
            number += 1
            file.write_text(text(number))
            written.append(number)

    over, written = threading.Event(), [0]
    file = daemon.folder / "restless.yaml"
    writer = threading.Thread(target=rewrite)
    daemon.start()
    writer.start()
    try:
        ends_well(daemon)
        daemon.wait_for(lambda: written[-1] > 100, 60, "the file to be rewritten many times")
    finally:
        over.set()
        writer.join()

    def description() -> str:
        return next(
            (each["description"] for each in daemon.json("workflow", "list") if each["name"] == "restless"), ""
        )

    daemon.wait_for(lambda: description() == f"v{written[-1]}", DEADLINE_S, "the last content")
    assert daemon.file("restless.yaml")["state"] == "registered"


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


@pytest.mark.parametrize(
    ("soft", "state", "remedy"), [(2000, "warn", "LimitNOFILE=4096 in its unit"), (5000, "ok", "")]
)
def test_check_tells_how_many_files_the_daemon_may_open_that_runs(
    daemon: Daemon, soft: int, state: str, remedy: str
) -> None:
    daemon.start()
    assert daemon.process is not None
    _soft, hard = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (soft, hard))

    findings = json.loads(daemon.run("fusemld", "check", "-o", "json", check=False).stdout)

    (found,) = [each for each in findings if each["name"] == "open files"]
    assert found["level"] == state
    assert f"{soft} at once for the daemon that runs" in found["message"]
    assert remedy in found["remedy"]
