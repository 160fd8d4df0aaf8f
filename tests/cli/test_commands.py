from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.cli.commands import commands, formats


def test_every_command_can_be_imported_and_has_a_help() -> None:
    assert all(command.help for command in commands().values())


def test_every_command_speaks_to_programs_but_those_that_the_readme_names() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()

    (sentence,) = re.findall(
        r"`-o json` or `-o yaml` makes every command a source for programs but ([^;]+);", readme
    )
    named = re.findall(r"`(fusemld? [^`]+)`", sentence)

    silent = [typed for typed, command in commands().items() if formats(command) != ["table", "json", "yaml"]]
    assert len(named) == len(silent)
    assert all(any(name.startswith(typed) for name in named) for typed in silent)


@pytest.mark.parametrize(
    ("typed", "given", "name"),
    [
        (typed, ["x"] * before, parameter.make_metavar(click.Context(command)))
        for typed, command in commands().items()
        for before, parameter in enumerate(each for each in command.params if isinstance(each, click.Argument))
    ],
)
def test_an_argument_that_is_empty_is_wrong_usage_of_every_command(
    typed: str, given: list[str], name: str
) -> None:
    done = CliRunner().invoke(commands()[typed], [*given, ""])

    assert done.exit_code == 2
    assert f"Invalid value for '{name}': it is empty" in done.stderr
