"""`fuseml lint` and `fuseml schema`: what needs no daemon."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from fusemld.cli import tables
from fusemld.cli.exits import ExitStatus
from fusemld.cli.options import Output, argument, output_option
from fusemld.model.extension import Extension
from fusemld.model.problem import Problem, Severity
from fusemld.model.workflow import Workflow

if TYPE_CHECKING:
    from fusemld.spec.documents import Parsed


class Linted(msgspec.Struct, frozen=True, kw_only=True):
    file: str
    problems: tuple[Problem, ...]


@click.command("lint")
@argument("files", metavar="FILE...", nargs=-1, required=True)
@output_option
def lint(files: tuple[str, ...], output: Output) -> None:
    """Check each FILE (`-` is standard input, of a folder every *.yaml and *.yml below it) as the daemon would
    read it, which also knows what is registered: give the extension records too, and credentials are found where
    they would be seen. One line per problem, file:line:column: message; exit 1 if there are errors."""
    read = [(name, _read(data, file)) for name, file, data in _contents(files)]
    documents = [document for _, parsed in read for document in parsed.documents]
    records = tuple(each.declared for each in documents if isinstance(each.declared, Extension))
    found = [Linted(file=name, problems=_problems(parsed, records)) for name, parsed in read]

    def lines() -> str:
        return "\n".join(tables.printable(problem.at(each.file)) for each in found for problem in each.problems)

    if output is not Output.TABLE or any(each.problems for each in found):
        tables.emit(output, found, lines)
    problems = [problem for each in found for problem in each.problems]
    errors = sum(problem.severity is Severity.ERROR for problem in problems)
    if output is Output.TABLE:
        counts = tables.count(errors, "error"), tables.count(len(problems) - errors, "warning")
        click.echo(f"{tables.count(len(found), 'file')} checked: {', '.join(counts)}", err=True)
    if errors:
        click.get_current_context().exit(ExitStatus.FAILED)


@click.command("schema")
def schema() -> None:
    """Print the JSON Schema of all documents, for editors that check YAML while it is typed."""
    from fusemld.spec.jsonschema import json_schema

    click.echo(msgspec.json.format(msgspec.json.encode(json_schema()), indent=2).decode())


def _contents(names: tuple[str, ...]) -> Iterator[tuple[str, Path, bytes | OSError]]:
    """(name to show, absolute path, content or why there is none)."""
    for name in names:
        if name == "-":
            yield "<stdin>", Path.cwd() / "stdin.yaml", sys.stdin.buffer.read()
            continue
        path = Path(name)
        if path.is_dir():
            yield from _inside(path)
        else:
            yield str(path), path.absolute(), _content(path)


def _inside(folder: Path) -> Iterator[tuple[str, Path, bytes | OSError]]:
    """What a daemon would read there."""
    from fusemld.intake.reading import look

    try:
        seen = look(folder)
    except OSError as error:
        yield str(folder), folder.absolute(), error
        return
    for place, cause in sorted(seen.unreadable.items()):
        yield str(folder / place), (folder / place).absolute(), OSError(0, cause)
    for file in sorted(folder / name for name in seen.files):
        yield str(file), file.absolute(), _content(file)


def _content(file: Path) -> bytes | OSError:
    """A pipe of the file system is never opened, since that may wait for ever; one of the shell is open."""
    try:
        if not stat.S_ISREG(file.stat().st_mode) and not file.is_relative_to("/dev/fd"):
            return OSError(0, "it is not a regular file")
        return file.read_bytes()
    except OSError as error:
        return error


def _read(data: bytes | OSError, file: Path) -> Parsed:
    from fusemld.spec.documents import Parsed, read

    if isinstance(data, OSError):
        return Parsed(problems=(Problem(message=f"cannot read this file: {data.strerror}"),))
    return read(data, file=file)


def _problems(parsed: Parsed, records: tuple[Extension, ...]) -> tuple[Problem, ...]:
    from fusemld.registry.exposure import exposed

    found = [
        problem
        for document in parsed.documents
        if isinstance(document.declared, Workflow)
        for problem in exposed(document, document.declared, records)
    ]
    return (*parsed.problems, *found)
