"""`fuseml logs`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta

import click

from fusemld.api import views
from fusemld.api.client import url
from fusemld.cli import tables
from fusemld.cli.options import Output, argument, connect, output_option, run_argument, socket_option

_MAY_BE_GONE = timedelta(days=1)
"""Sooner retention removes a log only where very much is logged."""


@click.command("logs")
@run_argument
@argument("step", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until nothing more can come")
@click.option("--attempt", type=click.IntRange(min=1), help="Only this attempt of the step")
@output_option
@socket_option
def logs(run: str, step: str | None, follow: bool, attempt: int | None, output: Output) -> None:
    """Show the log of a STEP of RUN as it was written, or all logs with the step's name before each line.

    With `-o json` a JSON object a line for each, with step, attempt and line."""
    if attempt and not step:
        raise click.UsageError("--attempt needs a STEP")
    is_empty, client = True, connect()
    if output is Output.TABLE:
        for chunk in client.logs(run, step, attempt, follow):
            is_empty = False
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
    else:
        for line in client.log_lines(run, step, attempt, follow):
            is_empty = False
            tables.emit_next(output, line)
    if is_empty:
        said = _nothing(client.get(url("runs", run), views.RunView), step, attempt)
        click.echo(f"{said}; what happened says: fuseml why {run}", err=True)


def _nothing(run: views.RunView, step: str | None, attempt: int | None) -> str:
    """Why there is no log, as far as the record of the run tells."""
    attempts = [
        each
        for one in run.steps
        if step in (None, one.name)
        for each in one.attempts
        if attempt in (None, each.number)
    ]
    ended = [each.ended_at for each in attempts if each.ended_at is not None]
    if any(each.tail for each in attempts):
        return "the log is gone: retention removes what is old or too much"
    if attempts and not any(each.started_at for each in attempts) and ended:
        return "nothing was logged: it was never started"
    if any(datetime.now(UTC) - at > _MAY_BE_GONE for at in ended):
        return "nothing was logged, or the log is gone: retention removes what is old or too much"
    return "nothing was logged" if ended else "nothing was logged so far"
