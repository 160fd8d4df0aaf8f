"""The `fuseml` client: talks to the daemon through its Unix socket."""

from __future__ import annotations

import sys

import click

from fusemld.cli.exits import run_command
from fusemld.cli.lazy import LazyGroup
from fusemld.cli.options import socket_option

_ROOM = "fusemld.cli.commands"

_COMMANDS = {
    "run": (f"{_ROOM}.runs:start", "Start a run of a workflow"),
    "runs": (f"{_ROOM}.runs:list_runs", "List runs, newest first"),
    "get": (f"{_ROOM}.runs:get", "Show a run, its steps and outputs"),
    "watch": (f"{_ROOM}.watch:watch", "Show the progress of a run until it is over"),
    "logs": (f"{_ROOM}.logs:logs", "Show the logs of a run or a step"),
    "why": (f"{_ROOM}.runs:why", "Say what a run waits for, or why it failed"),
    "cancel": (f"{_ROOM}.runs:cancel", "Stop a run"),
    "retry": (f"{_ROOM}.runs:retry", "Go on with a run from what failed"),
    "files": (f"{_ROOM}.files:files", "List what is in the watched folder, and what is wrong with it"),
    "lint": (f"{_ROOM}.lint:lint", "Check files without a daemon"),
    "schema": (f"{_ROOM}.lint:schema", "Print the JSON Schema of documents, for editors"),
    "workflow": (f"{_ROOM}.workflow:workflow", "List or show workflows"),
    "codeset": (f"{_ROOM}.codeset:codeset", "List or show codesets"),
    "application": (f"{_ROOM}.application:application", "List, show or delete applications"),
    "extension": (f"{_ROOM}.extension:extension", "List, show, explain or check extensions"),
    "gc": (f"{_ROOM}.upkeep:gc", "Remove what retention lets go, or say what would go"),
    "backup": (f"{_ROOM}.upkeep:backup", "Copy the daemon's database to a file while it runs"),
    "services": (f"{_ROOM}.services:services", "List embedded services"),
    "version": (f"{_ROOM}.version:version", "Show the versions of this program and of the daemon"),
    "completion": (f"{_ROOM}.completion:completion", "Print the completion script of a shell"),
}


@click.group(
    cls=LazyGroup,
    lazy=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=(
        "RUN is an id, the beginning of one, or `latest`. Exit status: 0 done, 1 failed or problems found, "
        "2 wrong usage, 3 not found, 4 no daemon, 5 not permitted, 6 not possible now, 130 interrupted."
    ),
)
@click.version_option(package_name="fusemld", message="%(version)s")
@socket_option
def cli() -> None:
    """FuseML workflows on this machine: start them, watch them, see what they left behind."""


def main() -> None:
    sys.exit(run_command(cli, "fuseml"))
