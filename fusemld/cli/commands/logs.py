"""`fuseml logs`."""

from __future__ import annotations

import sys

import click

from fusemld.cli.options import connect, run_argument, socket_option


@click.command("logs")
@run_argument
@click.argument("step", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until nothing more can come")
@click.option("--attempt", type=click.IntRange(min=1), help="Only this attempt of the step")
@socket_option
def logs(run: str, step: str | None, follow: bool, attempt: int | None) -> None:
    """Show the log of a STEP of RUN as it was written, or all logs with the step's name before each line."""
    if attempt and not step:
        raise click.UsageError("--attempt needs a STEP")
    is_empty = True
    for chunk in connect().logs(run, step, attempt, follow):
        is_empty = False
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    if is_empty:
        click.echo(f"nothing was logged; what happened says: fuseml why {run}", err=True)
