"""`fuseml version`."""

from __future__ import annotations

import click
import msgspec

from fusemld import __version__
from fusemld.api import views
from fusemld.cli import tables
from fusemld.cli.options import Output, connect, output_option, socket_option
from fusemld.model.errors import UnreachableError


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """`daemon` is None where none can be reached, and `problem` says why."""

    client: str
    daemon: views.VersionView | None
    problem: str | None = None


@click.command("version")
@output_option
@socket_option
def version(output: Output) -> None:
    """Show the version of this program and, where it runs, of the daemon."""
    try:
        daemon = connect().get("/version", views.VersionView)
    except UnreachableError as error:
        found = Versions(client=__version__, daemon=None, problem=str(error))
    else:
        found = Versions(client=__version__, daemon=daemon)
    tables.emit(output, found, lambda: _described(found))


def _described(found: Versions) -> str:
    pairs = [("client", found.client)]
    if found.daemon is None:
        pairs.append(("daemon", found.problem or ""))
    else:
        plugins = ", ".join(f"{plugin.name} {plugin.version}".rstrip() for plugin in found.daemon.plugins)
        pairs += [
            ("daemon", found.daemon.version),
            ("python", found.daemon.python),
            ("platform", found.daemon.platform),
            ("plugins", plugins),
        ]
    return tables.fields(pairs)
