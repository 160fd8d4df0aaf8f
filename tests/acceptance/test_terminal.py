"""What `fuseml watch` shows to a person in a terminal."""

from __future__ import annotations

import re
import signal
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.acceptance.daemon import BIN, Daemon
from tests.acceptance.terminal import Terminal, terminal

pytestmark = pytest.mark.acceptance

SPENT = r"\d+(\.\d)?s"
TURNING = "[\u2801-\u28ff]"


class Gates:
    """Steps that go on when the test lets them."""

    def __init__(self, base: Path) -> None:
        self._folder = base / "gates"
        self._folder.mkdir()

    def step(self, name: str, needs: str, then: str = "true", more: str = "") -> str:
        wait = f"until [ -e {self._folder}/{name} ]; do sleep 0.02; done"
        return (
            f"  - name: {name}\n    image: host\n    needs: [{needs}]\n"
            f"    command: [sh, -c, '{wait}; {then}']\n{more}"
        )

    def open(self, name: str) -> None:
        (self._folder / name).touch()

    def flaky(self) -> str:
        """A script that fails the first time."""
        return (
            f"rm {self._folder}/other; test -e {self._folder}/tried || {{ touch {self._folder}/tried; exit 3; }}"
        )


@pytest.fixture
def gates(tmp_path: Path) -> Gates:
    return Gates(tmp_path)


def started(daemon: Daemon, gates: Gates) -> str:
    """A run with a step that waits for another, and one that waits for the only slot and fails at first."""
    daemon.start(LIMITS_STEPS="1")
    answer = "echo 42 > $FUSEML_RESULTS_DIR/answer"
    daemon.drop(
        "shown.yaml",
        "name: shown\noutputs: [{name: answer}]\nsteps:\n"
        + gates.step("prepare", "")
        + gates.step("other", "", gates.flaky(), "    retry: {limit: 1, backoff: 2s}\n")
        + gates.step("train", "prepare", answer, "    outputs: [{name: answer}]\n"),
    )
    return daemon.run_of("shown.yaml")


def watching(
    daemon: Daemon, run: str, *, columns: int = 100, lines: int = 24, kind: str = "xterm-256color"
) -> AbstractContextManager[Terminal]:
    program = [str(BIN / "fuseml"), "watch", run]
    return terminal(program, daemon.environment, columns=columns, lines=lines, kind=kind)


def spent(lines: list[str], name: str) -> float:
    (found,) = [match for line in lines if (match := re.match(rf".  {name} +(\d+(\.\d)?)s", line))]
    return float(found[1])


def test_every_step_is_drawn_in_its_place_with_its_state_its_duration_and_what_it_waits_for(
    daemon: Daemon, gates: Gates
) -> None:
    run = started(daemon, gates)
    going_on = rf"shown  {run}  running  {SPENT}"
    waiting = r"·  other            next in line; .* taken \(limits\.steps = \d\)"

    with watching(daemon, run) as shown:
        at_first = rf"{TURNING}  prepare  +{SPENT}  running"
        before = shown.wait_for(going_on, at_first, waiting, r"·  train            waiting for prepare")
        later = before
        while spent(later, "prepare") == spent(before, "prepare"):
            shown.read()
            later = shown.wait_for(going_on, at_first, waiting, r"·  train            waiting for prepare")
        gates.open("prepare")
        prepared = rf"✓  prepare  +{SPENT}"
        fixed = shown.wait_for(
            *(going_on, prepared),
            rf"{TURNING}  other    +{SPENT}  running",
            r"·  train            next in line; .* taken \(limits\.steps = \d\)",
        )
        gates.open("other")
        failed = rf"↻  other    +{SPENT}  in %s\.\ds attempt 2 follows, after: program failed: exit status 3"
        shown.wait_for(going_on, prepared, failed % 1, r".  train .*")
        shown.wait_for(going_on, prepared, failed % 0, rf"{TURNING}  train    +{SPENT}  running")
        gates.open("train")
        again = rf"{TURNING}  other    +{SPENT}  running \(attempt 2\)"
        over = shown.wait_for(going_on, prepared, again, rf"✓  train    +{SPENT}")
        assert shown.cursor_is_hidden
        gates.open("other")
        status = shown.finish()

    assert status == 0
    assert spent(fixed, "prepare") == spent(over, "prepare"), "what is over takes no longer"
    assert shown.shows(
        rf"shown  {run}  succeeded  {SPENT}",
        prepared,
        rf"✓  other    +{SPENT}",
        rf"✓  train    +{SPENT}",
        rf"run {run} succeeded after {SPENT}",
        "output answer = 42",
    )
    assert shown.scrolled == []
    assert not shown.cursor_is_hidden


def test_in_a_narrow_terminal_words_go_on_below_each_other_in_their_column(daemon: Daemon, gates: Gates) -> None:
    run = started(daemon, gates)

    with watching(daemon, run, columns=40) as shown:
        rows = (rf"✓  prepare  +{SPENT}", rf"✓  train    +{SPENT}")
        gates.open("prepare")
        gates.open("train")
        head = (rf"shown  {run}", rf"running  {SPENT}")
        shown.wait_for(
            *head, rows[0], rf"{TURNING}  other    +{SPENT}  running", r"·  train .*", *(r" {20}\S.*",) * 2
        )
        gates.open("other")
        shown.wait_for(
            *head, rows[0], rf"↻  other    +{SPENT}  in \d\.\ds attempt.*", *(r" {20}\S.*",) * 3, rows[1]
        )
        shown.wait_for(*head, rows[0], rf"{TURNING}  other    +{SPENT}  running \(attempt 2\)", rows[1])
        gates.open("other")
        assert shown.finish() == 0

    assert shown.scrolled == []
    assert shown.lines[1].startswith("succeeded")


def test_what_does_not_fit_on_the_screen_is_counted_and_shown_once_at_the_end(
    daemon: Daemon, gates: Gates
) -> None:
    daemon.start()
    names = [f"step-{number}" for number in range(30)]
    daemon.drop(
        "many.yaml",
        "name: many\norder: listed\nsteps:\n" + "".join(gates.step(name, "") for name in names),
    )
    run = daemon.run_of("many.yaml")

    with watching(daemon, run, lines=8) as shown:
        going_on = rf"many  {run}  running  {SPENT}"
        to_come = [rf"·  step-{number}  +waiting for step-{number - 1}" for number in range(1, 6)]
        at_first = rf"{TURNING}  step-0  +{SPENT}  running"
        shown.wait_for(going_on, at_first, *to_come, "… and 24 more steps: 24 waiting")
        for name in names[:20]:
            gates.open(name)
        later = rf"{TURNING}  step-20  +{SPENT}  running"
        to_come = [rf"·  step-{number}  +waiting for step-{number - 1}" for number in range(21, 26)]
        shown.wait_for(going_on, later, *to_come, "… and 24 more steps: 4 waiting, 20 succeeded")
        for name in names[20:]:
            gates.open(name)
        assert shown.finish() == 0

    everything = [*shown.scrolled, *shown.lines]
    rows = Counter(line.split()[1] for line in everything if line.startswith("✓"))
    assert rows == Counter(names)
    assert sum(run in line for line in everything) == 2, "the run's own line, and how it ended"


def test_who_stops_watching_keeps_the_last_picture_and_reads_how_to_see_it_again(
    daemon: Daemon, gates: Gates
) -> None:
    run = started(daemon, gates)

    with watching(daemon, run, columns=120) as shown:
        rows = (rf"{TURNING}  prepare  +{SPENT}  running", r"·  other  .*", r"·  train  .*")
        shown.wait_for(rf"shown  {run}  running  {SPENT}", *rows)
        shown.program.send_signal(signal.SIGINT)
        status = shown.finish()

    assert status == 130
    again = rf"run {run} goes on; see it again with: fuseml watch {run}"
    assert shown.shows(rf"shown  {run}  running  {SPENT}", *rows, "", again)
    assert not shown.cursor_is_hidden


def test_a_terminal_that_cannot_draw_gets_a_line_for_every_change(daemon: Daemon, gates: Gates) -> None:
    run = started(daemon, gates)

    with watching(daemon, run, kind="dumb") as shown:
        clock = r"\d\d:\d\d:\d\d "
        shown.wait_for(
            rf"{clock}run {run} of shown: running",
            rf"{clock}prepare: (running|starting.*)",
            rf"{clock}other: queued: .*",
            rf"{clock}train: waiting: .*",
        )
        for gate in ("prepare", "other", "train"):
            gates.open(gate)
