"""`fuseml application`."""

from __future__ import annotations

import click
import msgspec

from fusemld.api import views
from fusemld.api.client import url
from fusemld.cli import tables
from fusemld.cli.options import Output, argument, connect, output_option, socket_option


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    """`left` is what it had in a cluster or an object store, where that stays."""

    name: str
    left: tuple[str, ...]


@click.group("application")
@socket_option
def application() -> None:
    """List, show or delete what predictor steps have left behind."""


@application.command("list")
@click.option("--type", "kind", help="Only applications of this type")
@click.option("--workflow", help="Only applications of this workflow")
@output_option
@socket_option
def list_applications(kind: str | None, workflow: str | None, output: Output) -> None:
    """List applications."""
    found = connect().get("/applications", tuple[views.ApplicationView, ...], type=kind, workflow=workflow)

    def table() -> str:
        if not found and not (kind or workflow):
            return "no applications yet: a run with a predictor step leaves one behind"
        if not found:
            return "no such applications"
        return tables.table(
            ("name", "type", "state", "url", "workflow", "run", "updated"), (_row(each) for each in found)
        )

    tables.emit(output, found, table)


@application.command("get")
@argument("name")
@output_option
@socket_option
def get(name: str, output: Output) -> None:
    """Show the application NAME."""
    found = connect().get(url("applications", name), views.ApplicationView)
    pairs = (
        ("application", found.name),
        ("type", found.type),
        ("state", found.state),
        ("url", found.url),
        ("description", found.description),
        ("project", found.project),
        ("workflow", found.workflow),
        ("run", found.run),
        ("revision", str(found.revision)),
        ("updated", tables.ago(found.updated_at)),
        ("services", ", ".join(found.services)),
        ("objects", ", ".join(_objects(found))),
        ("copies", ", ".join(found.copies)),
    )
    tables.emit(output, found, lambda: tables.fields(pairs))


@application.command("delete")
@argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--orphan", is_flag=True, help="Leave what it has in a cluster or an object store: it may be gone.")
@output_option
@socket_option
def delete(names: tuple[str, ...], orphan: bool, output: Output) -> None:
    """Stop what serves each application and forget it.

    With `-o json` a JSON object a line for each that is deleted."""
    client = connect()
    for name in names:
        found = client.get(url("applications", name), views.ApplicationView) if orphan else None
        client.send("DELETE", url("applications", name), orphan="1" if orphan else None)
        deleted = Deleted(name=name, left=(*_objects(found), *found.copies) if found else ())
        if output is not Output.TABLE:
            tables.emit_next(output, deleted)
            continue
        click.echo(f"application {name} is deleted")
        for left in deleted.left:
            click.echo(f"left where it is: {left}")


def _objects(application: views.ApplicationView) -> list[str]:
    return [f"{each.kind}/{each.name}" for each in application.k8s_resources]


def _row(application: views.ApplicationView) -> tuple[str, ...]:
    return (
        application.name,
        application.type,
        application.state,
        application.url,
        application.workflow,
        application.run,
        tables.ago(application.updated_at),
    )
