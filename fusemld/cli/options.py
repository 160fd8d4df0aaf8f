"""Options that most commands share."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fusemld.model.paths import client_sockets

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from fusemld.api.client import Client

F = TypeVar("F", bound=Callable[..., Any])

_SOCKET = "fusemld.socket"
_LONGEST_S = 1e9


class Output(enum.StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def _remember_socket(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.meta[_SOCKET] = value


class Seconds(click.ParamType[float]):
    """A duration that a system call can wait."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds: float = click.FLOAT.convert(value, param, ctx)
        if not 0 <= seconds <= _LONGEST_S:
            self.fail(f"{value} is not from 0 to {_LONGEST_S:.0f}", param, ctx)
        return seconds


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


class _Argument(click.Argument):
    """One that is not empty: that is a variable of the shell which is not set, and means all or nothing."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        if "" in (value if isinstance(value, tuple) else (value,)):
            raise click.BadParameter("it is empty; is a variable of the shell not set?", ctx, self)
        return super().type_cast_value(ctx, value)


argument = partial(click.argument, cls=_Argument)
"""`click.argument` for every argument of every command."""

run_argument = argument("run", metavar="RUN", shell_complete=_complete_run)
