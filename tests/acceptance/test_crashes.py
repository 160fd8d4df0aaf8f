"""What `kill -9`, SIGTERM and SIGSTOP do: every run reaches its end, and no command runs twice at one attempt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fusemld.executors.process import recovery
from fusemld.model import faults
from tests.acceptance.daemon import BIN, EXAMPLES, Daemon, command_of, gone, keepers, processes_of_steps, runs
from tests.acceptance.ledger import Ledger, attempts, numbers, step
from tests.acceptance.lives import Life, crash_host

pytestmark = pytest.mark.acceptance

STOP_LIMIT_S = 10.0

STEERING = '''\
"""A plugin step that waits for a file, and writes down when it begins and ends."""

import time

import anyio
import anyio.to_thread

from fusemld.hooks.specs import hookimpl
from fusemld.hooks.steps import StepInputs


class Steering:
    repositories = ("example.org/steering",)
    inputs = StepInputs(required=frozenset({"gate", "ledger"}), open=True)

    async def run(self, context):
        context.log("steering")
        if "hangs" in context.inputs:
            await anyio.to_thread.run_sync(time.sleep, 1000)
        with open(context.inputs["ledger"], "a") as ledger:
            ledger.write(f"began {context.key}\\n")
        while not await anyio.Path(context.inputs["gate"]).exists():
            await anyio.sleep(0.02)
        context.log("steered")
        return {name: f"{name} of {context.key.step}" for name in context.outputs}


@hookimpl
def fusemld_plugin_steps():
    return [Steering()]
'''

FILL = 'head -c 100000 /dev/zero | tr "\\0" x > "$FUSEML_RESULTS_DIR/all";'
"""More than the database takes."""
CHAIN = """\
name: chain
outputs: [{{name: sum}}, {{name: all}}]
steps:
  - name: make
    image: host
    command: [sh, -c, '{work} cat words; cp words "$FUSEML_RESULTS_DIR/made"; {fill} {done}']
    inputs: [{{name: data, codeset: {{name: demo/data, path: /project}}}}]
    outputs: [{{name: made}}, {{name: all}}]
  - name: steer
    image: example.org/steering:1
    inputs:
      - {{name: ledger, value: "{ledger}"}}
      - {{name: gate, value: "{ledger}"}}
      - {{name: made, value: "{{{{ steps.make.outputs.made }}}}"}}
    outputs: [{{name: steered}}]
  - name: left
    image: host
    needs: [steer]
    command: [sh, -c, '{work} {done}']
  - name: right
    image: host
    needs: [steer]
    command: [sh, -c, '{work} {done}']
  - name: sum
    image: host
    needs: [left, right]
    command: [sh, -c, '{work} printf "%s, %s" "$FUSEML_A" "$FUSEML_B" > "$FUSEML_RESULTS_DIR/sum"; {done}']
    inputs:
      - {{name: a, value: "{{{{ steps.make.outputs.made }}}}"}}
      - {{name: b, value: "{{{{ steps.steer.outputs.steered }}}}"}}
    outputs: [{{name: sum}}]
"""


@pytest.fixture
def ledger(daemon: Daemon) -> Ledger:
    return Ledger(daemon)


@pytest.fixture
def steering(daemon: Daemon) -> None:
    daemon.install_plugin("steering", STEERING)


def log(daemon: Daemon, run: str, name: str) -> str:
    return daemon.run("fuseml", "logs", run, name).stdout


def kill_keeper(daemon: Daemon) -> None:
    for pid in keepers(daemon):
        os.kill(pid, signal.SIGKILL)


def nothing_remembered(daemon: Daemon) -> bool:
    """Ended attempts have no folder, and the keeper has forgotten them."""
    folders = [path for path in (daemon.state / "attempts").iterdir() if path.is_dir()]
    return not folders


@contextmanager
def following(daemon: Daemon, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A `fuseml` that follows something, until the block is left."""
    process = subprocess.Popen(
        [BIN / "fuseml", *arguments], env=daemon.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# The daemon


@pytest.mark.usefixtures("steering")
@pytest.mark.parametrize("point", faults.POINTS)
def test_a_crash_at_any_point_loses_nothing_and_repeats_nothing(
    daemon: Daemon, ledger: Ledger, point: str
) -> None:
    data = daemon.codesets / "data"
    data.mkdir()
    (data / "words").write_text("some words")
    daemon.drop("data.yaml", f"name: data\nproject: demo\npath: {data}\n")
    daemon.drop("chain.yaml", CHAIN.format(work=ledger.work, done=ledger.done, ledger=ledger.file, fill=FILL))

    deaths = [Life(daemon, f"{point}:{count}").ends() for count in (1, 2)]
    daemon.start()
    run = daemon.finished(daemon.wait_for(lambda: [entry.id for entry in runs(daemon)], 10, "the run")[0])

    assert any(deaths)
    assert len(runs(daemon)) == 1
    assert run["state"] == "succeeded", daemon.run("fuseml", "why", run["id"]).stdout
    assert run["outputs"] == {"sum": "some words, steered of steer", "all": "x" * 100_000}
    ledger.assert_nothing_twice()
    for entry in run["steps"]:
        *earlier, last = entry["attempts"]
        assert all(attempt["ending"] == "lost" for attempt in earlier)
        assert last["reason"] == ("first" if not earlier else last["reason"])
        assert not earlier or point.startswith("keeper."), entry
        assert log(daemon, run["id"], entry["name"]).endswith(
            "steered\n" if entry["name"] == "steer" else "done\n"
        )
    daemon.wait_for(lambda: nothing_remembered(daemon), 10, "ended attempts to be forgotten")
    assert not processes_of_steps(daemon)


def test_a_step_goes_on_while_the_daemon_is_dead_and_is_taken_up_again(daemon: Daemon, ledger: Ledger) -> None:
    gate = daemon.base / "gate"
    script = f"{ledger.work} echo one; until test -e {gate}; do sleep 0.05; done; echo two; {ledger.done}"
    daemon.drop("long.yaml", "name: long\nsteps:\n" + step("only", script))
    daemon.start()
    run = daemon.run_of("long.yaml")
    daemon.in_state(run, "only", "running")
    (before,) = [process.pid for process in processes_of_steps(daemon) if process.name() == "sh"]

    daemon.kill()
    daemon.start()
    daemon.in_state(run, "only", "running")
    (after,) = [process.pid for process in processes_of_steps(daemon) if process.name() == "sh"]
    gate.touch()
    view = daemon.finished(run)

    assert view["state"] == "succeeded"
    assert before == after
    assert numbers(view) == {"only": [1]}
    assert log(daemon, run, "only") == "begun\none\ntwo\ndone\n"
    ledger.assert_nothing_twice()


def test_steps_that_end_while_the_daemon_is_dead_are_judged_by_the_next_one(
    daemon: Daemon, ledger: Ledger
) -> None:
    gate = daemon.base / "gate"
    waits = f"{ledger.work} until test -e {gate}; do sleep 0.05; done;"
    output = 'printf value > "$FUSEML_RESULTS_DIR/out"'
    daemon.drop(
        "ends.yaml",
        "name: ends\nsteps:\n"
        + step("fails", f"{waits} echo broken; exit 3", "    needs: []\n")
        + step("gives", f"{waits} {output}; {ledger.done}", "    needs: []\n    outputs: [{name: out}]\n")
        + step("forgets", f"{waits} {ledger.done}", "    needs: []\n    outputs: [{name: out}]\n")
        + step("dies", f"{waits} kill -9 $$", "    needs: []\n")
        + step("next", f"{ledger.work} {ledger.done}", "    needs: [gives]\n"),
    )
    daemon.start()
    run = daemon.run_of("ends.yaml")
    for name in ("fails", "gives", "forgets", "dies"):
        daemon.in_state(run, name, "running")

    daemon.kill()
    gate.touch()
    daemon.wait_for(lambda: not processes_of_steps(daemon), 20, "the steps to end")
    daemon.start()
    view = daemon.finished(run)

    endings = {name: [attempt["ending"] for attempt in attempts(view, name)] for name in numbers(view)}
    assert endings == {
        "fails": ["program failed"],
        "gives": ["succeeded"],
        "forgets": ["output missing"],
        "dies": ["killed by a signal"],
        "next": ["succeeded"],
    }
    (failed,) = attempts(view, "fails")
    assert failed["exit_status"] == 3
    assert failed["tail"] == "begun\nbroken"
    assert daemon.step(run, "gives")["outputs"] == {"out": "value"}
    assert log(daemon, run, "fails") == "begun\nbroken\n"
    ledger.assert_nothing_twice()


@pytest.mark.usefixtures("steering")
def test_a_plugin_step_is_resumed_at_the_same_attempt(daemon: Daemon, ledger: Ledger) -> None:
    gate = daemon.base / "gate"
    daemon.drop(
        "steered.yaml",
        "name: steered\noutputs: [{name: out}]\nsteps:\n  - name: only\n    image: example.org/steering:1\n"
        f"    inputs: [{{name: ledger, value: {ledger.file}}}, {{name: gate, value: {gate}}}]\n"
        "    outputs: [{name: out}]\n",
    )
    daemon.start()
    run = daemon.run_of("steered.yaml")
    daemon.in_state(run, "only", "running")
    daemon.wait_for(lambda: ledger.count("began"), 10, "the plugin to work")

    daemon.kill()
    daemon.start()
    daemon.wait_for(lambda: ledger.count("began").total() == 2, 10, "the plugin to work again")
    gate.touch()
    view = daemon.finished(run)

    assert view["outputs"] == {"out": "out of only"}
    assert numbers(view) == {"only": [1]}
    assert log(daemon, run, "only") == "steering\nsteering\nsteered\n"


def test_a_run_whose_cancelling_was_cut_short_ends_cancelled(daemon: Daemon, ledger: Ledger) -> None:
    waits = f'{ledger.work} trap "" TERM; while :; do sleep 0.1; done'
    daemon.drop("long.yaml", "name: long\nsteps:\n" + step("one", waits) + step("two", ledger.work))
    daemon.start(STEPS_GRACE_S="1")
    run = daemon.run_of("long.yaml")
    daemon.in_state(run, "one", "running")

    daemon.run("fuseml", "cancel", run)
    daemon.kill()
    daemon.start()
    view = daemon.finished(run)

    assert view["state"] == "cancelled"
    assert {entry["name"]: entry["state"] for entry in view["steps"]} == {"one": "cancelled", "two": "cancelled"}
    assert ledger.count("began").total() == 1
    assert not processes_of_steps(daemon)


def test_a_stopped_daemon_catches_up_when_it_is_continued(daemon: Daemon, ledger: Ledger) -> None:
    gate = daemon.base / "gate"
    waits = f"{ledger.work} until test -e {gate}; do sleep 0.05; done; {ledger.done}"
    next_one = step("two", f"{ledger.work} {ledger.done}")
    daemon.drop("long.yaml", "name: long\nsteps:\n" + step("one", waits) + next_one)
    daemon.start()
    run = daemon.run_of("long.yaml")
    daemon.in_state(run, "one", "running")
    assert daemon.process is not None

    daemon.process.send_signal(signal.SIGSTOP)
    gate.touch()
    daemon.wait_for(lambda: not processes_of_steps(daemon), 20, "the step to end")
    daemon.process.send_signal(signal.SIGCONT)
    view = daemon.finished(run)

    assert view["state"] == "succeeded"
    assert numbers(view) == {"one": [1], "two": [1]}
    ledger.assert_nothing_twice()


def test_a_second_daemon_on_the_same_state_folder_or_socket_is_refused(daemon: Daemon) -> None:
    daemon.start()
    first = daemon.process
    assert first is not None
    elsewhere = daemon.base / "elsewhere"
    other_socket = str(daemon.socket.with_name("other.sock"))

    same_state = daemon.run("fusemld", "run", "--socket", other_socket, check=False)
    same_socket = daemon.run(
        "fusemld", "run", "--state", str(elsewhere / "state"), "--folder", str(elsewhere / "inbox"), check=False
    )

    assert same_state.returncode != 0
    assert f"a daemon (process {first.pid}) is using it" in same_state.stderr
    assert same_socket.returncode != 0
    assert "another daemon listens there" in same_socket.stderr
    assert "Traceback" not in same_state.stderr + same_socket.stderr
    assert daemon.run("fuseml", "runs").returncode == 0
    daemon.run("fusemld", "stop", "--all", "--state", str(elsewhere / "state"), "--socket", other_socket)


# Stopping


def test_a_terminated_daemon_is_gone_in_time_whoever_listens_and_its_steps_go_on(
    daemon: Daemon, ledger: Ledger
) -> None:
    gate = daemon.base / "gate"
    waits = f"{ledger.work} until test -e {gate}; do sleep 0.05; done; {ledger.done}"
    daemon.drop("long.yaml", "name: long\nsteps:\n" + step("one", waits) + step("two", ledger.work))
    daemon.start()
    run = daemon.run_of("long.yaml")
    daemon.in_state(run, "one", "running")

    with following(daemon, "logs", "-f", run) as logs, following(daemon, "watch", run) as watch:
        assert logs.stdout is not None
        assert watch.stdout is not None
        assert logs.stdout.readline()
        assert watch.stdout.readline()
        took_s = daemon.terminate()
        assert logs.wait(timeout=10) != 0, "a log that was broken off must not look complete"
        assert watch.wait(timeout=10) != 0

    assert took_s < STOP_LIMIT_S
    assert daemon.process is not None
    assert daemon.process.returncode == 0
    assert [process.name() for process in processes_of_steps(daemon)].count("sh") == 1
    daemon.start()
    gate.touch()
    view = daemon.finished(run)
    assert view["state"] == "succeeded"
    assert numbers(view) == {"one": [1], "two": [1]}
    ledger.assert_nothing_twice()


@pytest.mark.usefixtures("steering")
def test_a_thread_that_hangs_does_not_keep_a_terminated_daemon(daemon: Daemon, ledger: Ledger) -> None:
    daemon.drop(
        "hangs.yaml",
        "name: hangs\nsteps:\n  - name: only\n    image: example.org/steering:1\n"
        f"    inputs:\n      - {{name: ledger, value: {ledger.file}}}\n"
        "      - {name: gate, value: never}\n      - {name: hangs, value: 'yes'}\n",
    )
    daemon.start()
    run = daemon.run_of("hangs.yaml")
    daemon.wait_for(lambda: log(daemon, run, "only"), 10, "the plugin to hang")

    assert daemon.terminate() < STOP_LIMIT_S


@pytest.mark.parametrize("is_killed_before", [False, True], ids=["daemon running", "daemon killed before"])
def test_stopping_everything_leaves_no_process_even_of_steps_that_ignore_it(
    daemon: Daemon, ledger: Ledger, is_killed_before: bool
) -> None:
    stubborn = f'{ledger.work} trap "" TERM INT HUP; setsid sleep 1000 & while :; do sleep 0.1; done'
    daemon.drop("long.yaml", "name: long\nsteps:\n" + step("one", stubborn) + step("two", ledger.work))
    daemon.start(STEPS_GRACE_S="1")
    run = daemon.run_of("long.yaml")
    daemon.in_state(run, "one", "running")
    daemon.wait_for(lambda: len(processes_of_steps(daemon)) > 1, 10, "the step to be busy")

    if is_killed_before:
        daemon.kill()
    daemon.stop_everything()

    assert [command_of(process) for process in daemon.processes()] == []
    daemon.start()
    view = daemon.finished(run)
    assert view["state"] == "failed"
    assert "it was told to stop" in view["message"]
    assert ledger.count("began").total() == 1, "what was stopped is not begun again by itself"


# The keeper


@pytest.mark.parametrize("is_daemon_killed", [False, True], ids=["keeper only", "daemon and keeper"])
def test_steps_of_a_killed_keeper_get_a_new_attempt_with_a_reason_that_does_not_count(
    daemon: Daemon, ledger: Ledger, is_daemon_killed: bool
) -> None:
    broken = daemon.base / "broken"
    # First it waits, then it fails by itself, then it is well.
    script = (
        f"{ledger.work} setsid sleep 1000 & if ! test -e {ledger.again}; then sleep 1000; fi;"
        f" if ! test -e {broken}; then touch {broken}; exit 1; fi; {ledger.done}"
    )
    retry = "    needs: []\n    retry: {limit: 1, backoff: 1s}\n"
    daemon.drop(
        "kept.yaml",
        "name: kept\nsteps:\n" + step("one", script, retry) + step("two", ledger.endless, "    needs: []\n"),
    )
    daemon.start()
    run = daemon.run_of("kept.yaml")
    daemon.in_state(run, "one", "running")
    daemon.in_state(run, "two", "running")
    daemon.wait_for(lambda: ledger.count("began").total() == 2, 10, "both to begin")
    before = {process.pid for process in processes_of_steps(daemon)}

    if is_daemon_killed:
        daemon.kill()
    kill_keeper(daemon)
    ledger.again.touch()
    if is_daemon_killed:
        daemon.start()
    view = daemon.finished(run)

    assert view["state"] == "succeeded", daemon.run("fuseml", "why", run).stdout
    assert numbers(view) == {"one": [1, 2, 3], "two": [1, 2]}
    endings = [attempt["ending"] for attempt in attempts(view, "one")]
    assert endings == ["lost", "program failed", "succeeded"]
    assert recovery.KILLED in attempts(view, "one")[1]["reason"]
    assert "retry 1 of 1" in attempts(view, "one")[2]["reason"]
    assert recovery.KILLED in attempts(view, "two")[1]["reason"]
    assert all(gone(pid) for pid in before)
    ledger.assert_nothing_twice()
    daemon.wait_for(lambda: not processes_of_steps(daemon), 20, "what left its group to be ended")


KILLS_THE_KEEPER = """
import os, signal
from fusemld.executors.process import client, wire

send, asked = client._Link.send, []

def kill_when_asked(self, message):
    if isinstance(message, wire.Ask) and message.prefix == {prefix!r} and not asked:
        asked.append(message)
        os.kill(self.keeper_pid, signal.SIGSTOP)
        send(self, message)
        os.kill(self.keeper_pid, signal.SIGKILL)
    else:
        send(self, message)

client._Link.send = kill_when_asked
"""


@pytest.mark.parametrize("prefix", ["service/", "step/"])
def test_a_keeper_that_is_killed_while_a_new_daemon_asks_it_does_not_keep_it_from_starting(
    daemon: Daemon, ledger: Ledger, prefix: str
) -> None:
    daemon.drop("asked.yaml", "name: asked\nsteps:\n" + step("a", ledger.endless))
    daemon.start()
    run = daemon.run_of("asked.yaml")
    daemon.wait_for(lambda: ledger.count("began").total() == 1, 10, "it to begin")
    daemon.kill()
    keeper = daemon.keeper_pid()
    ledger.again.touch()

    daemon.install_plugin("killskeeper", KILLS_THE_KEEPER.format(prefix=prefix))
    daemon.start()
    view = daemon.finished(run)

    assert gone(keeper)
    assert view["state"] == "succeeded", daemon.run("fuseml", "why", run).stdout
    assert numbers(view) == {"a": [1, 2]}
    assert recovery.KILLED in attempts(view, "a")[1]["reason"]
    ledger.assert_nothing_twice()


@pytest.mark.parametrize("is_journal_lost", [False, True], ids=["journal there", "journal lost"])
def test_after_a_crash_of_the_host_what_ran_gets_a_new_attempt(
    daemon: Daemon, ledger: Ledger, is_journal_lost: bool
) -> None:
    daemon.drop(
        "host.yaml",
        "name: host\nsteps:\n" + step("before", f"{ledger.work} {ledger.done}") + step("during", ledger.endless),
    )
    daemon.start()
    run = daemon.run_of("host.yaml")
    daemon.in_state(run, "during", "running")
    daemon.wait_for(lambda: len(ledger.count("began")) == 2, 10, "the second step to begin")

    crash_host(daemon, is_journal_lost)
    ledger.again.touch()
    daemon.start()
    view = daemon.finished(run)

    assert view["state"] == "succeeded", daemon.run("fuseml", "why", run).stdout
    assert numbers(view) == {"before": [1], "during": [1, 2]}
    assert "the host went down" in attempts(view, "during")[1]["reason"]
    ledger.assert_nothing_twice()


# The main job


@pytest.mark.services
@pytest.mark.timeout(900)
def test_the_main_job_survives_a_kill_in_each_of_its_steps(daemon: Daemon) -> None:
    daemon.add_codeset("iris", "sklearn-iris")
    daemon.drop_example("workflows/mlflow-e2e.yaml")
    daemon.drop_example("documents/iris-run.yaml")
    daemon.start()
    run = daemon.run_of("iris-run.yaml")

    for name in ("builder", "trainer", "predictor"):
        daemon.in_state(run, name, "running", 600)
        daemon.kill()
        daemon.start()
    view = daemon.finished(run, 600)

    assert view["state"] == "succeeded", daemon.run("fuseml", "why", run).stdout
    assert numbers(view) == {"builder": [1], "trainer": [1], "predictor": [1]}
    built, trained, served = (log(daemon, run, name) for name in ("builder", "trainer", "predictor"))
    assert (built.count("environment from"), built.count("built environment"), built.count("image: ")) == (1, 1, 1)
    assert (trained.count("entry point main"), trained.count("accuracy"), trained.count("model: ")) == (1, 1, 1)
    assert served.splitlines()[-1].endswith(view["outputs"]["prediction-url"])
    sample = json.loads((EXAMPLES / "codesets" / "sklearn-iris" / "sample.json").read_text())
    request = urllib.request.Request(
        view["outputs"]["prediction-url"],
        data=json.dumps({"inputs": sample["inputs"]}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        predicted = [round(value) for value in json.load(answer)["outputs"][0]["data"]]
    assert sum(a == b for a, b in zip(predicted, sample["truth"], strict=True)) >= len(predicted) - 1
