from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.console import Console

from fusemld.api import views
from fusemld.cli import tables
from fusemld.cli.picture import picture
from fusemld.model.run import RunState, StepState
from tests.api.memory import run_view, step_view

STEPS = st.lists(st.sampled_from(StepState), max_size=40).map(
    lambda states: tuple(step_view(f"s{place}", state, reason="word " * 9) for place, state in enumerate(states))
)


def drawn(run: views.RunView, *, columns: int, lines: int) -> list[str]:
    console = Console(file=io.StringIO(), width=columns, height=lines, force_terminal=True, color_system=None)
    rendered = console.render_lines(picture(run), pad=False)
    return ["".join(segment.text for segment in line).rstrip() for line in rendered]


@given(steps=STEPS, columns=st.integers(20, 120), lines=st.integers(1, 60))
def test_while_a_run_goes_on_its_picture_is_never_larger_than_the_terminal(
    steps: tuple[views.StepView, ...], columns: int, lines: int
) -> None:
    shown = drawn(run_view("r1", state=RunState.RUNNING, steps=steps), columns=columns, lines=lines)

    assert len(shown) <= lines
    assert all(len(line) <= columns for line in shown)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (1, []),
        (2, ["… and 6 more steps: 2 waiting, 1 running, 2 succeeded, 1 failed"]),
        (4, ["s2", "s3", "… and 4 more steps: 2 waiting, 2 succeeded"]),
        (5, ["s2", "s3", "s4", "… and 3 more steps: 1 waiting, 2 succeeded"]),
        (6, ["s2", "s3", "s4", "s5", "… and 2 more steps: 2 succeeded"]),
        (7, ["s0", "s1", "s2", "s3", "s4", "s5"]),
    ],
)
def test_where_there_is_not_room_for_all_what_goes_on_and_has_failed_comes_before_what_waits_and_is_over(
    lines: int, expected: list[str]
) -> None:
    states = ("succeeded", "succeeded", "failed", "running", "waiting", "waiting")
    steps = tuple(step_view(f"s{place}", StepState(state)) for place, state in enumerate(states))

    _, *rows = drawn(run_view("r1", state=RunState.RUNNING, steps=steps), columns=80, lines=lines)

    assert [row if row.startswith("…") else row.split()[1] for row in rows] == expected


def test_the_time_to_the_next_attempt_grows_shorter_while_the_same_run_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = replace(
        step_view("s0", StepState.BACKOFF, reason="attempt 2 follows, after: out of memory"),
        deadline=views.moment(1600.0),
    )
    run = run_view("r1", state=RunState.RUNNING, steps=(waiting,))
    words = []

    for now in (1000.0, 1057.0, 1595.5, 1600.5):
        monkeypatch.setattr(tables, "seconds_since", lambda time, now=now: now - time.timestamp())
        words.append(drawn(run, columns=80, lines=5)[1].split("s0")[1].strip())

    assert words == [
        f"{left} attempt 2 follows, after: out of memory" for left in ("in 10m00s", "in 9m03s", "in 4.5s", "now")
    ]


def test_the_last_picture_has_everything() -> None:
    steps = tuple(step_view(f"s{place}", StepState.SUCCEEDED) for place in range(30))

    assert len(drawn(run_view("r1", state=RunState.SUCCEEDED, steps=steps), columns=80, lines=5)) == 31
