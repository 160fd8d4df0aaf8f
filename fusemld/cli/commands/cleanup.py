"""`fusemld cleanup`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusemld.cli import tables
from fusemld.cli.commands.daemon import load, settings_options
from fusemld.cli.options import Output, output_option

if TYPE_CHECKING:
    from fusemld.daemon.cleanup import Leftovers


@click.command("cleanup")
@click.option("--keep-applications", is_flag=True, help="Leave served models alone")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed")
@click.option("--yes", is_flag=True, help="Do not ask")
@settings_options
@output_option
def cleanup(keep_applications: bool, dry_run: bool, yes: bool, config: Path | None, output: Output) -> None:
    """Remove from the cluster everything that the daemon of this state folder has made there. The daemon must not
    be running; runs that are unfinished go on with new attempts when it is started again."""
    from fusemld.daemon.cleanup import clean_up

    seen: list[Leftovers] = []
    for_people = output is Output.TABLE

    def agree(found: Leftovers) -> bool:
        seen.append(found)
        if for_people or not (yes or dry_run):
            click.echo(_described(found), err=not for_people)
        if found.is_nothing or dry_run:
            return False
        return yes or _confirmed(for_people)

    removed = clean_up(load(config).settings, agree, keep_applications=keep_applications) is not None
    if not for_people:
        tables.emit(output, {"found": seen[0], "removed": removed}, str)
    elif removed:
        click.echo("removed all of it")


def _confirmed(for_people: bool) -> bool:
    try:
        return click.confirm("remove all of this?", err=not for_people)
    except click.Abort:
        click.echo("\nfusemld: nothing was removed: the question was not answered; --yes does not ask", err=True)
        raise


def _described(found: Leftovers) -> str:
    place = f"in namespace {found.namespace} of {found.server}"
    if found.is_nothing:
        return f"nothing of this daemon is {place}"
    counts = f"{len(found.pods)} pods, {found.secrets} Secrets and {found.config_maps} ConfigMaps"
    named = [f"  pod {name}" for name in found.pods]
    for application in found.applications:
        stays = f"; its copies stay: {', '.join(application.copies)}" if application.copies else ""
        named.append(f"  application {application.name} at {application.url}{stays}")
    named += [f"  InferenceService {name}, which no application names" for name in found.models]
    return "\n".join((f"{counts} {place}", *named))
