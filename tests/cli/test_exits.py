"""Whatever a command raises becomes an exit status, and one line where that is for a person."""

from __future__ import annotations

import click
import pytest

from fusemld.cli.exits import run_command
from fusemld.model.errors import NotFoundError, StartError

GONE = NotFoundError("cannot find x: it is gone")


def program(error: BaseException) -> click.Group:
    def fail() -> None:
        raise error

    return click.Group(commands={"do": click.Command("do", callback=fail)})


def run(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    monkeypatch.setattr("sys.argv", ["it", "do"])
    return run_command(program(error), "it")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (GONE, 3, "it: cannot find x: it is gone\n"),
        (ExceptionGroup("store", [ExceptionGroup("cluster", [GONE])]), 3, "it: cannot find x: it is gone\n"),
        (
            ExceptionGroup("two", [StartError("cannot start"), GONE]),
            1,
            "it: cannot start\nit: cannot find x: it is gone\n",
        ),
        (ExceptionGroup("store", [click.Abort()]), 130, ""),
        (BaseExceptionGroup("store", [KeyboardInterrupt()]), 130, ""),
        (ExceptionGroup("store", [click.UsageError("so not")]), 2, "Error: so not\n"),
    ],
)
def test_what_was_foreseeable_is_told_however_deeply_task_groups_have_wrapped_it(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    said: str,
) -> None:
    assert run(monkeypatch, error) == status
    assert capsys.readouterr().err == said


def test_a_bug_keeps_its_trace_also_beside_what_was_foreseeable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExceptionGroup):
        run(monkeypatch, ExceptionGroup("store", [GONE, ZeroDivisionError()]))

    assert capsys.readouterr().err == ""
