"""Every command of both programs, as their parsers know them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import click
from click.testing import CliRunner, Result

from fusemld.cli.fuseml import cli as fuseml
from fusemld.cli.fusemld import cli as fusemld


def invoke(tool: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Result:
    """What the program does, in this process: it takes a tenth of the time that a process of its own needs."""
    return CliRunner(env=environment).invoke({"fuseml": fuseml, "fusemld": fusemld}[tool], arguments)


def commands() -> dict[str, click.Command]:
    """By what is typed: `fuseml extension list`."""
    return {**dict(_below("fuseml", fuseml)), **dict(_below("fusemld", fusemld))}


def formats(command: click.Command) -> list[str]:
    """What its option -o may be."""
    return [
        str(choice)
        for option in command.params
        if "-o" in option.opts and isinstance(option.type, click.Choice)
        for choice in option.type.choices
    ]


def _below(typed: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield typed, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from _below(f"{typed} {name}", found)
