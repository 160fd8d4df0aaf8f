"""`fuseml lint` and `fuseml schema`: what needs no daemon."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from fusemld.cli import tables
from fusemld.cli.exits import ExitStatus
from fusemld.cli.options import Output, output_option
from fusemld.model.problem import Problem, Severity


class Linted(msgspec.Struct, frozen=True, kw_only=True):
    file: str
    problems: tuple[Problem, ...]


@click.command("lint")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@output_option
def lint(files: tuple[str, ...], output: Output) -> None:
    """Check each FILE (`-` is standard input, of a folder every *.yaml and *.yml below it) as the daemon would
    read it. One line per problem, file:line:column: message; exit 1 if there are errors."""
    found = [Linted(file=name, problems=_problems(data, file)) for name, file, data in _contents(files)]

    def lines() -> str:
        return "\n".join(tables.printable(problem.at(each.file)) for each in found for problem in each.problems)

    if output is not Output.TABLE or any(each.problems for each in found):
        tables.emit(output, found, lines)
    problems = [problem for each in found for problem in each.problems]
    errors = sum(problem.severity is Severity.ERROR for problem in problems)
    if output is Output.TABLE:
        counts = _count(errors, "error"), _count(len(problems) - errors, "warning")
        click.echo(f"{_count(len(found), 'file')} checked: {', '.join(counts)}", err=True)
    if errors:
        click.get_current_context().exit(ExitStatus.FAILED)


@click.command("schema")
def schema() -> None:
    """Print the JSON Schema of all documents, for editors that check YAML while it is typed."""
    from fusemld.spec.jsonschema import json_schema

    click.echo(msgspec.json.format(msgspec.json.encode(json_schema()), indent=2).decode())


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _contents(names: tuple[str, ...]) -> Iterator[tuple[str, Path, bytes | OSError]]:
    """(name to show, absolute path, content or why there is none)."""
    for name in names:
        if name == "-":
            yield "<stdin>", Path.cwd() / "stdin.yaml", sys.stdin.buffer.read()
            continue
        path = Path(name)
        inside = [*path.rglob("*.yaml"), *path.rglob("*.yml")] if path.is_dir() else [path]
        for file in sorted(inside):
            yield str(file), file.absolute(), _content(file)


def _content(file: Path) -> bytes | OSError:
    try:
        return file.read_bytes()
    except OSError as error:
        return error


def _problems(data: bytes | OSError, file: Path) -> tuple[Problem, ...]:
    from fusemld.spec.documents import read

    if isinstance(data, OSError):
        return (Problem(message=f"cannot read this file: {data.strerror}"),)
    return read(data, file=file).problems
