"""`fuseml services`."""

from __future__ import annotations

import click

from fusemld.api import views
from fusemld.cli import tables
from fusemld.cli.options import Output, connect, output_option, socket_option


@click.command("services")
@output_option
@socket_option
def services(output: Output) -> None:
    """List the embedded services: where they listen, how they are, and where their logs are."""
    found = connect().get("/services", tuple[views.ServiceView, ...])

    def table() -> str:
        if not found:
            return "no services: each starts when a step first needs it"
        return tables.table(
            ("name", "kind", "state", "since", "url", "pid", "log", "detail"), (_row(each) for each in found)
        )

    tables.emit(output, found, table)


def _row(service: views.ServiceView) -> tuple[str, ...]:
    return (
        service.name,
        service.kind,
        service.state,
        tables.ago(service.since),
        service.url,
        str(service.pid or ""),
        service.log,
        service.detail,
    )
