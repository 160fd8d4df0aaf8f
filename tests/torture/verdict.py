"""Whether every promise was kept: the ledger of the steps against what the daemon has recorded."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from fusemld.api import views
from fusemld.engine.plan import Defaults
from fusemld.executors.process.journal import Journal
from fusemld.model.run import Ending, RunState
from tests.torture.workload import NO_ROOM, Expected, Kind


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """A broken promise: `what` is one of `duplicate`, `lost`, `stuck`, `wrong`."""

    what: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.what}: {self.where}: {self.text}"


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """How often each `RUN/STEP/ATTEMPT` says that it began and ended."""

    began: Counter[str]
    ended: Counter[str]


def read_ledger(file: Path) -> Ledger:
    words = [line.split() for line in file.read_text().splitlines()]
    return Ledger(
        began=Counter(key for word, key in words if word == "began"),
        ended=Counter(key for word, key in words if word == "ended"),
    )


def judge(asked: Mapping[int, Kind], runs: Iterable[views.RunView], ledger: Ledger) -> Iterator[Violation]:
    """`asked` maps the number of every request to its workflow."""
    by_number: dict[int, list[views.RunView]] = {number: [] for number in asked}
    known: set[str] = set()
    for run in runs:
        by_number[int(run.inputs["number"])].append(run)
        known |= {f"{run.id}/{step.name}/{attempt.number}" for step in run.steps for attempt in step.attempts}
    for number, kind in asked.items():
        found = by_number[number]
        if not found:
            yield Violation(what="lost", where=f"request {number} of {kind.name}", text="it has no run")
        for other in found[1:]:
            yield Violation(what="duplicate", where=other.id, text=f"request {number} has run {found[0].id} too")
        for run in found:
            yield from _judge_run(run, number, kind, ledger)
    for key in ledger.began.keys() - known:
        yield Violation(what="lost", where=key, text="it was started, and no attempt is recorded")


def _judge_run(run: views.RunView, number: int, kind: Kind, ledger: Ledger) -> Iterator[Violation]:
    if run.state is RunState.RUNNING:
        waits = [f"{step.name} is {step.state}: {step.reason}" for step in run.steps if not step.state.is_final]
        yield Violation(what="stuck", where=run.id, text=f"{kind.name}: {'; '.join(waits)}")
        return
    for step in run.steps:
        yield from _judge_attempts(run.id, step, kind.steps[step.name], ledger)
    if any(is_given_up(step) or has_no_room(step) for step in run.steps):
        return
    if run.state is not kind.state:
        yield Violation(what="wrong", where=run.id, text=f"{kind.name} is {run.state}: {run.message}")
    elif run.outputs != kind.outputs(number):
        yield Violation(what="wrong", where=run.id, text=f"{kind.name} gave {run.outputs}")
    for step in run.steps:
        expected = kind.steps[step.name]
        if step.state is not expected.state:
            yield Violation(what="wrong", where=f"{run.id}/{step.name}", text=f"it is {step.state}: {step.reason}")


def is_given_up(step: views.StepView) -> bool:
    """Killed so often that the documented bound of repetitions is reached: a proper end, and counted."""
    losses = sum(attempt.ending is Ending.LOST for attempt in step.attempts)
    return losses > Defaults().max_losses and step.attempts[-1].ending is Ending.LOST


def has_no_room(step: views.StepView) -> bool:
    """The step itself could not write its result on a full disk, and says so: a proper end, and counted."""
    return any(attempt.exit_status == NO_ROOM for attempt in step.attempts)


def _judge_attempts(run: str, step: views.StepView, expected: Expected, ledger: Ledger) -> Iterator[Violation]:
    earlier_may_be = {Ending.LOST} | ({Ending.PROGRAM_FAILED} if expected.may_fail else set())
    for position, attempt in enumerate(step.attempts, start=1):
        key = f"{run}/{step.name}/{attempt.number}"
        began, ended = ledger.began[key], ledger.ended[key]
        if attempt.number != position:
            yield Violation(what="wrong", where=key, text=f"it should be attempt {position}")
        if (began > 1 and not expected.is_resumed) or ended > 1:
            yield Violation(what="duplicate", where=key, text=f"it began {began} times and ended {ended} times")
        if attempt.ending is None or attempt.ended_at is None:
            yield Violation(what="lost", where=key, text="its end is not recorded")
            continue
        if attempt.ending is Ending.SUCCEEDED and not (began and (ended or expected.is_resumed)):
            yield Violation(what="wrong", where=key, text=f"recorded as succeeded; began {began}, ended {ended}")
        if attempt.exit_status == NO_ROOM:
            continue
        is_last = position == len(step.attempts)
        if attempt.ending not in (earlier_may_be | {expected.ending} if is_last else earlier_may_be):
            text = f"it ended as {attempt.ending}: {attempt.message}"
            yield Violation(what="wrong", where=key, text=text)
        if (attempt.reason == "first") is not (position == 1):
            yield Violation(what="wrong", where=key, text=f"its reason is {attempt.reason!r}")


_FILES = re.compile(
    r"fusemld\.db(-wal|-shm)?|daemon\.lock|keeper\.json|attempts/boot\.json|codesets/(gitconfig|askpass)"
    r"|codesets/content/sha256-[0-9a-f]{64}/.*|keeper/(lock|journal|keeper\.log|keeper\.sock)"
    r"|logs/services/served-\d+/\d+\.log"
)
"""What a state folder holds when nothing runs in it, besides logs."""


def left_over(state: Path, attempts: Collection[str], outputs: Collection[str]) -> Iterator[str]:
    """What should be gone from the state folder, or was never to be there: folders of attempts and of services,
    copies of codesets on their way, logs of no attempt (`RUN/STEP/ATTEMPT`), outputs that nobody names
    (`RUN/FILE`), what the keeper still remembers."""
    logs = {f"logs/{run}/{step}.{number}.log" for run, step, number in (key.split("/") for key in attempts)}
    expected = {*logs, *(f"outputs/{file}" for file in outputs)}
    for folder, folders, files in os.walk(state):
        place = Path(folder).relative_to(state)
        for name in files:
            path = (place / name).as_posix()
            if _FILES.fullmatch(path) is None and path not in expected:
                yield path
        if place.as_posix() in ("attempts", "codesets/tmp", "services"):
            yield from (f"{place}/{name}/" for name in folders)
    journal = Journal(state / "keeper" / "journal")
    journal.open()
    journal.close()
    yield from (f"keeper/journal: {key}" for key in journal.entries)


def named_outputs(database: Path) -> set[str]:
    """The files that the runs name, as `RUN/FILE`."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return {f"{run}/{file}" for run, file in connection.execute("SELECT run, file FROM output_files")}


def damage(database: Path) -> str:
    """What SQLite finds wrong with the database; empty if nothing."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        try:
            (answer,) = connection.execute("PRAGMA integrity_check").fetchone()
        except sqlite3.DatabaseError as error:
            return str(error)
    return "" if answer == "ok" else str(answer)
