"""`fusemld restore`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusemld.api.views import moment
from fusemld.cli import tables
from fusemld.cli.commands.daemon import load, settings_options
from fusemld.cli.options import Output, argument, output_option

if TYPE_CHECKING:
    from fusemld.store.restoring import Restored

_SHOWN = 10


@click.command("restore")
@argument("file", type=click.Path(dir_okay=False, path_type=Path))
@settings_options
@output_option
def restore(file: Path, config: Path | None, output: Output) -> None:
    """Make FILE, which `fuseml backup` wrote, the database of the daemon, which must not be running.

    What is still running is ended. What has happened since the copy was made is not known any more, so nothing is
    run that might have run since: unfinished runs end as failed, and `fuseml retry` goes on with them; what files
    ask for that are older than this moment is not run. The database of today stays beside the other one.
    """
    import anyio

    from fusemld.daemon.restoring import restore as restore_now

    done = anyio.run(restore_now, load(config).settings, file)
    told = {
        "file": str(file),
        "copied_at": moment(done.copied_at),
        "runs": done.runs,
        "ended": done.ended,
        "replaced": None if done.replaced is None else str(done.replaced),
    }
    tables.emit(output, told, lambda: "\n".join(_described(done, file)))


def _described(done: Restored, file: Path) -> Iterator[str]:
    yield f"restored {tables.count(done.runs, 'run')} from {file}"
    if done.replaced is not None:
        yield f"the database of before is {done.replaced}"
    if done.ended:
        more = f" and {len(done.ended) - _SHOWN} more" if len(done.ended) > _SHOWN else ""
        yield f"ended, because they were under way: {', '.join(done.ended[:_SHOWN])}{more}"
