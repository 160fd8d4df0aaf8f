"""`fuseml watch`: a picture in a terminal, a line per change elsewhere."""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import Iterator

import click

from fusemld.api import views
from fusemld.api.client import Client, url
from fusemld.cli import progress, tables
from fusemld.cli.commands.runs import exit_status
from fusemld.cli.exits import ExitStatus
from fusemld.cli.options import Output, connect, output_option, run_argument, socket_option
from fusemld.model.errors import FusemldError
from fusemld.model.run import RunState

_CANNOT_DRAW = ("dumb", "unknown")
"""Terminals without a cursor that moves, as in Emacs' shell."""


@click.command("watch")
@run_argument
@output_option
@socket_option
def watch(run: str, output: Output) -> None:
    """Show the progress of RUN until it is over; exit 1 if it does not succeed.

    With `-o json` one JSON object a line at every change."""
    client = connect()
    found = client.get(url("runs", run), views.RunView)
    click.get_current_context().exit(follow(client, found.id, output))


def follow(client: Client, run: str, output: Output) -> ExitStatus:
    """Show the run until it is over. Interrupting it leaves the run alone, and says so."""
    try:
        last = _shown(client.changes(run), output)
    except KeyboardInterrupt:
        click.echo(f"\nrun {run} goes on; see it again with: fuseml watch {run}", err=True)
        return ExitStatus.INTERRUPTED
    if last.state is RunState.RUNNING:
        raise FusemldError(
            f"cannot follow run {run} any further: the daemon ended the stream before the run was over"
        )
    return exit_status(last.state)


def _shown(changes: Iterator[views.RunView], output: Output) -> views.RunView:
    if output is not Output.TABLE:
        return _as_data(changes, output)
    if sys.stdout.isatty() and os.environ.get("TERM") not in _CANNOT_DRAW:
        return _as_picture(changes)
    return _as_lines(changes)


def _as_data(changes: Iterator[views.RunView], output: Output) -> views.RunView:
    last = next(changes)
    while True:
        tables.emit_next(output, last)
        following = next(changes, None)
        if following is None:
            return last
        last = following


def _as_lines(changes: Iterator[views.RunView]) -> views.RunView:
    before: views.RunView | None = None
    last = next(changes)
    while True:
        for line in progress.changes(before, last):
            click.echo(f"{tables.clock(dt.datetime.now(dt.UTC))} {line}")
        before, following = last, next(changes, None)
        if following is None:
            break
        last = following
    for line in progress.ending(last):
        click.echo(line)
    return last


def _as_picture(changes: Iterator[views.RunView]) -> views.RunView:
    from rich.console import Console
    from rich.live import Live

    from fusemld.cli.picture import picture

    last = next(changes)
    with Live(
        console=Console(highlight=False),
        get_renderable=lambda: picture(last),
        refresh_per_second=8,
    ) as live:
        for now in changes:
            last = now
        live.refresh()
    for line in progress.ending(last):
        click.echo(line)
    return last
