from __future__ import annotations

import re
from pathlib import Path

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
