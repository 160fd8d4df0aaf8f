"""`fuseml files`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from fusemld.api import views
from fusemld.cli import tables
from fusemld.cli.options import Output, connect, output_option, socket_option
from fusemld.model.problem import Severity


@click.command("files")
@click.option("--problems", "only_problems", is_flag=True, help="Only what is wrong, as file:line:column: message")
@output_option
@socket_option
def files(only_problems: bool, output: Output) -> None:
    """List every document in the watched folder, its state, and what is wrong with it."""
    client = connect()
    found = client.get("/files", tuple[views.FileView, ...])
    health = client.get("/health", views.HealthView)
    for component in health.components:
        if component.name == "watched folder" and not component.ok:
            click.echo(f"warning: {component.message}", err=True)
    if only_problems:
        found = tuple(file for file in found if file.problems)

    def table() -> str:
        if not found and only_problems:
            return "no problems"
        if not found:
            return f"no files yet: drop workflows, codesets, extensions and run requests into {health.folder}"
        return "\n".join(part for part in (_table(found) if not only_problems else "", _problems(found)) if part)

    tables.emit(output, found, table)


def _table(files: Sequence[views.FileView]) -> str:
    headings = ("file", "line", "kind", "name", "state", "detail")
    return tables.table(
        headings, ((file.path, str(file.line), file.kind, file.name, file.state, _detail(file)) for file in files)
    )


def _detail(file: views.FileView) -> str:
    if file.problems and (file.state == "rejected" or not file.detail):
        errors = sum(problem.severity is Severity.ERROR for problem in file.problems)
        counts = (errors, "problem"), (len(file.problems) - errors, "warning")
        return f"{', '.join(tables.count(*each) for each in counts if each[0])}, below"
    return file.detail or (f"run {file.run}" if file.run else "")


def _problems(files: Sequence[views.FileView]) -> str:
    lines = [problem.at(file.path) for file in files for problem in file.problems]
    return "\n".join(tables.printable(line) for line in dict.fromkeys(lines))
