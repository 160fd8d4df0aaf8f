"""`fuseml completion`."""

from __future__ import annotations

import click

from fusemld.cli.options import argument


@click.command("completion")
@argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print the completion script of SHELL, e.g. for `eval "$(fuseml completion bash)"`."""
    from click.shell_completion import get_completion_class

    from fusemld.cli.fuseml import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "fuseml", "_FUSEML_COMPLETE").source())
