"""`fusemld restore`."""

from __future__ import annotations

from pathlib import Path

import click

from fusemld.cli.commands.daemon import load, settings_options

_SHOWN = 10


@click.command("restore")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@settings_options
def restore(file: Path, config: Path | None) -> None:
    """Make FILE, which `fuseml backup` wrote, the database of the daemon, which must not be running.

    What is still running is ended. What has happened since the copy was made is not known any more, so nothing is
    run that might have run since: unfinished runs end as failed, and `fuseml retry` goes on with them; what files
    ask for that are older than this moment is not run. The database of today stays beside the other one.
    """
    import anyio

    from fusemld.daemon.restoring import restore as restore_now

    done = anyio.run(restore_now, load(config).settings, file)
    click.echo(f"restored {done.runs} run{'' if done.runs == 1 else 's'} from {file}")
    if done.replaced is not None:
        click.echo(f"the database of before is {done.replaced}")
    if done.ended:
        more = f" and {len(done.ended) - _SHOWN} more" if len(done.ended) > _SHOWN else ""
        click.echo(f"ended, because they were under way: {', '.join(done.ended[:_SHOWN])}{more}")
