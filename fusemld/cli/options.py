"""Options that most commands share."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fusemld.model.paths import client_sockets

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from fusemld.api.client import Client

F = TypeVar("F", bound=Callable[..., Any])

_SOCKET = "fusemld.socket"


class Output(enum.StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def _remember_socket(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.meta[_SOCKET] = value


socket_option = click.option(
    "--socket",
    type=click.Path(path_type=Path),
    callback=_remember_socket,
    expose_value=False,
    metavar="PATH",
    help="The daemon's socket  [env: FUSEMLD_SOCKET]",
)

output_option = click.option(
    "-o",
    "--output",
    type=click.Choice([output.value for output in Output]),
    default=Output.TABLE.value,
    callback=lambda _ctx, _parameter, value: Output(value),
    show_default=True,
    help="For people or for programs",
)


def socket_in_use() -> Path:
    """The socket that was named, else the first of the usual ones that exists."""
    named: Path | None = click.get_current_context().meta.get(_SOCKET)
    if named is not None:
        return named
    candidates = client_sockets(os.environ, os.geteuid())
    return next((path for path in candidates if path.exists()), candidates[0])


def connect() -> Client:
    """The daemon of the current command."""
    from fusemld.api.client import Client

    return Client(socket_in_use())


def _complete_run(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from fusemld.api import views
    from fusemld.model.errors import FusemldError

    try:
        with ctx:
            runs = connect().get("/runs", tuple[views.RunSummary, ...])
    except FusemldError:
        return []
    found = [CompletionItem(run.id, help=f"{run.workflow}, {run.state}") for run in runs]
    return [item for item in found if item.value.startswith(incomplete)]


run_argument = click.argument("run", metavar="RUN", shell_complete=_complete_run)
