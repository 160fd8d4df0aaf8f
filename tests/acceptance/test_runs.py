"""Runs of workflows whose steps are commands of this host."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from typing import Any

import pytest

from fusemld.api.client import Client
from fusemld.model.run import RunState
from tests.acceptance.daemon import Daemon

pytestmark = pytest.mark.acceptance

HELLO = """\
name: hello
inputs:
  - name: who
    default: world
outputs:
  - name: greeting
steps:
  - name: compose
    image: host
    command: [sh, -c, 'printf "hello %s" "$FUSEML_WHO" > "$FUSEML_RESULTS_DIR/greeting"']
    inputs:
      - name: who
        value: "{{ inputs.who }}"
    outputs:
      - name: greeting
  - name: say
    image: host
    command: [sh, -c, 'echo "said: $1"', say, "{{ steps.compose.outputs.greeting }}"]
"""

FIVE = """\
name: five
inputs:
  - name: number
steps:
""" + "".join(f"  - name: s{number}\n    image: host\n    command: ['true']\n" for number in range(5))


def test_a_dropped_workflow_runs_and_gives_its_output(daemon: Daemon) -> None:
    daemon.start()

    daemon.drop("hello.yaml", HELLO)
    run = daemon.finished(daemon.run_of("hello.yaml"))

    assert run["state"] == "succeeded"
    assert run["outputs"] == {"greeting": "hello world"}
    assert daemon.run("fuseml", "logs", run["id"], "say").stdout == "said: hello world\n"


def test_a_run_can_be_asked_for_with_other_inputs_and_waited_for(daemon: Daemon) -> None:
    daemon.start()
    daemon.drop("hello.yaml", HELLO)
    daemon.run_of("hello.yaml")

    done = daemon.run("fuseml", "run", "hello", "-i", "who=you", "--wait")

    assert done.returncode == 0
    assert daemon.json("get", "latest")["outputs"] == {"greeting": "hello you"}


def test_a_wrong_request_is_refused_with_every_problem(daemon: Daemon) -> None:
    daemon.start()
    daemon.drop("hello.yaml", HELLO)
    daemon.run_of("hello.yaml")

    typo = daemon.run("fuseml", "run", "hello", "-i", "whom=you", check=False)
    unknown = daemon.run("fuseml", "run", "hallo", check=False)

    assert typo.returncode != 0
    assert "no input 'whom'" in typo.stderr
    assert "did you mean 'who'?" in typo.stderr
    assert unknown.returncode == 3
    assert "did you mean 'hello'?" in unknown.stderr


def test_a_failing_step_is_named_with_its_status_and_last_lines_and_can_be_retried(daemon: Daemon) -> None:
    daemon.start()
    flag = daemon.base / "fixed"
    ledger = daemon.base / "ledger"
    daemon.drop(
        "fragile.yaml",
        f"""\
name: fragile
steps:
  - name: first
    image: host
    command: [sh, -c, 'echo first >> {ledger}']
  - name: second
    image: host
    command: [sh, -c, 'echo about to break; test -e {flag} || exit 7']
  - name: third
    image: host
    command: [sh, -c, 'echo third >> {ledger}']
""",
    )
    run = daemon.run_of("fragile.yaml")

    failed = daemon.finished(run)
    why = daemon.run("fuseml", "why", run).stdout
    log = daemon.run("fuseml", "logs", run, "second").stdout
    flag.touch()
    daemon.run("fuseml", "retry", run)
    again = daemon.finished(run)

    assert failed["state"] == "failed"
    assert "second" in why
    assert "exit status 7" in why
    assert "about to break" in why
    assert log.startswith("about to break\n")
    assert again["state"] == "succeeded"
    assert ledger.read_text().splitlines() == ["first", "third"], "what had succeeded is not repeated"


def test_retries_wait_and_are_counted(daemon: Daemon) -> None:
    daemon.start()
    counter = daemon.base / "counter"
    daemon.drop(
        "flaky.yaml",
        f"""\
name: flaky
steps:
  - name: only
    image: host
    command: [sh, -c, 'echo x >> {counter}; test $(wc -l < {counter}) -ge 3']
    retry: {{limit: 5, backoff: 1s, max_backoff: 1s}}
""",
    )

    run = daemon.finished(daemon.run_of("flaky.yaml"))

    assert run["state"] == "succeeded"
    assert [attempt["number"] for attempt in run["steps"][0]["attempts"]] == [1, 2, 3]
    assert "exit status 1" in run["steps"][0]["attempts"][1]["reason"]


def test_a_step_past_its_timeout_is_stopped_with_all_its_children(daemon: Daemon) -> None:
    daemon.start(STEPS_GRACE_S="1")
    daemon.drop(
        "slow.yaml",
        """\
name: slow
steps:
  - name: only
    image: host
    command: [sh, -c, 'trap "" TERM; sleep 1000 & sleep 1000']
    timeout: 1s
""",
    )

    run = daemon.finished(daemon.run_of("slow.yaml"))

    assert run["state"] == "failed"
    assert run["steps"][0]["attempts"][0]["ending"] == "timed out"
    assert not [process for process in daemon.processes() if "sleep" in process.name()]


def test_a_cancelled_run_ends_and_leaves_no_process(daemon: Daemon) -> None:
    daemon.start()
    daemon.drop(
        "long.yaml",
        """\
name: long
steps:
  - name: one
    image: host
    command: [sleep, '1000']
  - name: two
    image: host
    command: ['true']
""",
    )
    run = daemon.run_of("long.yaml")
    daemon.in_state(run, "one", "running")

    daemon.run("fuseml", "cancel", run)
    view = daemon.finished(run)

    assert view["state"] == "cancelled"
    assert [step["state"] for step in view["steps"]] == ["cancelled", "cancelled"]
    assert not [process for process in daemon.processes() if process.name() == "sleep"]


def test_200_runs_of_5_steps_at_once_fill_the_limits_and_the_list_stays_responsive(daemon: Daemon) -> None:
    daemon.start(LIMITS_STEPS="4", LIMITS_STEPS_PER_WORKFLOW="3")
    ledger, gate = daemon.base / "ledger", daemon.base / "gate"
    ledger.touch()
    for name in ("five", "other"):
        wait = f"until [ -e {gate} ]; do sleep 0.02; done"
        step = f"[sh, -c, 'echo +{name} >> {ledger}; {wait}; sleep 0.01; echo -{name} >> {ledger}']"
        daemon.drop(f"{name}.yaml", FIVE.replace("name: five", f"name: {name}").replace("['true']", step))
    requests = (
        f"workflow: {name}\ninputs: {{number: '{number}'}}\n"
        for name in ("five", "other")
        for number in range(100)
    )
    daemon.drop("requests.yaml", "---\n".join(requests))
    longest_s = 0.0

    def listed() -> list[dict[str, Any]]:
        nonlocal longest_s
        started = time.monotonic()
        runs = list(daemon.json("runs", "--limit", "300"))
        longest_s = max(longest_s, time.monotonic() - started)
        return runs

    daemon.wait_for(lambda: len(listed()) == 200, 60, "200 runs")
    daemon.wait_for(lambda: len(ledger.read_text().split()) == 4, 20, "steps in all places")
    held = Counter(ledger.read_text().split())
    gate.touch()
    daemon.wait_for(lambda: {run["state"] for run in listed()} == {"succeeded"}, 120, "200 runs to succeed")

    lines = ledger.read_text().split()
    assert held == {"+five": 3, "+other": 1}
    assert Counter(lines) == {"+five": 500, "-five": 500, "+other": 500, "-other": 500}
    assert most_at_once(lines) == 4
    assert most_at_once([line for line in lines if line[1:] == "five"]) == 3
    assert most_at_once([line for line in lines if line[1:] == "other"]) <= 3
    assert longest_s < 5, "a person would wait"


def test_who_listens_to_all_runs_hears_how_each_of_many_short_ones_has_ended(daemon: Daemon) -> None:
    daemon.start()
    daemon.drop("sleeper.yaml", "name: sleeper\nsteps: [{name: s, image: host, command: [sleep, '60']}]\n")
    short = "inputs: [{name: number, type: int}]\nsteps: [{name: s, image: host, command: ['true']}]\n"
    daemon.drop("short.yaml", f"name: short\n{short}")
    sleeper = daemon.run_of("sleeper.yaml")
    ended: Counter[str] = Counter()

    changes = Client(daemon.socket).changes(None)
    assert next(changes).id == sleeper
    requests = (f"workflow: short\ninputs: {{number: '{number}'}}\n" for number in range(100))
    daemon.drop("requests.yaml", "---\n".join(requests))
    while len(ended) < 100:
        run = next(changes)
        if run.state is not RunState.RUNNING:
            ended[run.inputs["number"]] += 1

    assert set(ended.values()) == {1}


def most_at_once(lines: list[str]) -> int:
    """Of what began (`+`) and ended (`-`)."""
    return max(itertools.accumulate(1 if line.startswith("+") else -1 for line in lines))
