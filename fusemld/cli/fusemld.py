"""The `fusemld` entry point: runs the daemon and looks after it."""

from __future__ import annotations

import sys

import click

from fusemld.cli.exits import run_command
from fusemld.cli.lazy import LazyGroup

_ROOM = "fusemld.cli.commands"

_COMMANDS = {
    "run": (f"{_ROOM}.daemon:run", "Run the daemon in the foreground"),
    "stop": (f"{_ROOM}.daemon:stop", "Stop the daemon, and with --all everything it has started"),
    "restore": (f"{_ROOM}.restoring:restore", "Go back to a copy of the database that `fuseml backup` made"),
    "check": (f"{_ROOM}.daemon:check", "Say what this host has for the daemon and what it lacks"),
    "cleanup": (f"{_ROOM}.cleanup:cleanup", "Remove from the cluster what a stopped daemon has left there"),
    "config": (f"{_ROOM}.daemon:config", "Show every setting, its value and where that came from"),
}


@click.group(
    cls=LazyGroup,
    lazy=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=(
        "Settings come from one TOML file, then from FUSEMLD_* variables, then from flags. The state folder is "
        "FUSEMLD_STATE, else what systemd gives, else /var/lib/fusemld (root) or $XDG_STATE_HOME/fusemld. The "
        "socket is FUSEMLD_SOCKET, else what systemd gives, else /run/fusemld/fusemld.sock (root), "
        "$XDG_RUNTIME_DIR/fusemld/fusemld.sock, or run/fusemld.sock below the state folder."
    ),
)
@click.version_option(package_name="fusemld", message="%(version)s")
def cli() -> None:
    """The daemon that runs FuseML workflows from a watched folder."""


def main() -> None:
    sys.exit(run_command(cli, "fusemld"))
