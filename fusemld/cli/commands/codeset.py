"""`fuseml codeset`."""

from __future__ import annotations

import click

from fusemld.api import views
from fusemld.api.client import url
from fusemld.cli import tables
from fusemld.cli.options import Output, argument, connect, output_option, socket_option
from fusemld.model.codeset import parse_reference


@click.group("codeset")
@socket_option
def codeset() -> None:
    """List or show registered codesets."""


@codeset.command("list")
@click.option("--project", help="Only codesets of this project")
@click.option("--label", help="Only codesets with this label")
@output_option
@socket_option
def list_codesets(project: str | None, label: str | None, output: Output) -> None:
    """List registered codesets."""
    found = connect().get("/codesets", tuple[views.CodesetView, ...], project=project, label=label)

    def table() -> str:
        if not found and not (project or label):
            return "no codesets yet: drop a document with `name` and `url` or `path` into the watched folder"
        if not found:
            return "no such codesets"
        headings = ("project", "name", "url", "ref", "version", "labels")
        return tables.table(headings, (_row(each) for each in found))

    tables.emit(output, found, table)


@codeset.command("get")
@argument("reference", metavar="[PROJECT/]NAME")
@output_option
@socket_option
def get(reference: str, output: Output) -> None:
    """Show one codeset."""
    try:
        wanted = parse_reference(reference)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    found = connect().get(url("codesets", wanted.project, wanted.name), views.CodesetView)
    pairs = (
        ("codeset", f"{found.project}/{found.name}"),
        ("description", found.description),
        ("labels", ", ".join(found.labels)),
        ("url", found.url),
        ("ref", found.ref or ""),
        ("version", found.version or "(no run has used it yet)"),
        ("file", found.file),
    )
    tables.emit(output, found, lambda: tables.fields(pairs))


def _row(codeset: views.CodesetView) -> tuple[str, ...]:
    labels = ", ".join(codeset.labels)
    return (codeset.project, codeset.name, codeset.url, codeset.ref or "", codeset.version or "", labels)
