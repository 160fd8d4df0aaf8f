"""`fusemld run`, `stop`, `check` and `config`."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from fusemld.cli import tables
from fusemld.cli.exits import ExitStatus
from fusemld.cli.options import Output, Seconds, output_option
from fusemld.daemon.settings import FLAGS, Loaded, load_settings
from fusemld.model.errors import FusemldError, UnreachableError

F = TypeVar("F", bound=Callable[..., Any])

_FLAGS = "fusemld.flags"


def _flag(setting: str, metavar: str, text: str) -> Callable[[F], F]:
    """An option that stands for a setting; it wins over file and environment."""

    def remember(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.meta.setdefault(_FLAGS, {})[setting] = value

    return click.option(FLAGS[setting], callback=remember, expose_value=False, metavar=metavar, help=text)


def _remember_settings(ctx: click.Context, _: click.Parameter, pairs: tuple[str, ...]) -> None:
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE")
        ctx.meta.setdefault(_FLAGS, {})[name] = value


def settings_options(function: F) -> F:
    """`--config` and the flags, which `load` reads."""
    for decorate in (
        click.option(
            "--set",
            multiple=True,
            callback=_remember_settings,
            expose_value=False,
            metavar="NAME=VALUE",
            help="Any other setting by its name (see `fusemld config`); may be repeated",
        ),
        _flag("log.format", "auto|json|console", "How the daemon logs"),
        _flag("socket", "PATH", "Socket of the API"),
        _flag("state", "PATH", "State folder: database, logs, environments, service data"),
        _flag("folder", "PATH", "Watched folder"),
        click.option("--config", type=click.Path(path_type=Path), metavar="PATH", help="TOML file with settings"),
    ):
        function = decorate(function)
    return function


@click.command("run")
@settings_options
def run(config: Path | None) -> None:
    """Run the daemon in the foreground until SIGTERM or Ctrl-C; what it has started goes on without it."""
    loaded = load(config)
    from fusemld.daemon.lifecycle import serve

    click.get_current_context().exit(serve(loaded.settings))


@click.command("config")
@settings_options
@output_option
def config(config: Path | None, output: Output) -> None:
    """Show every setting, its value and where that came from."""
    loaded = load(config)
    values = {
        name: {"value": value, "origin": origin} for name, (value, origin) in loaded.origins.items()
    }  # fmt: skip
    rows = ((name, origin, value) for name, (value, origin) in loaded.origins.items())
    tables.emit(output, values, lambda: tables.table(("setting", "origin", "value"), rows))


@click.command("check")
@click.option("--run-pod", is_flag=True, help="Also run one pod in the cluster, which tries the helper images")
@settings_options
@output_option
def check(run_pod: bool, config: Path | None, output: Output) -> None:
    """Say what this host and its cluster have for the daemon, what they lack, and what to do about it; exit 1 if
    something fails."""
    from fusemld.daemon.check import check as check_host
    from fusemld.daemon.findings import Finding, Level

    def lines(findings: list[Finding]) -> Iterator[str]:
        yield tables.table(
            ("what", "state", "found"), ((each.name, each.level, each.message) for each in findings)
        )
        for each in findings:
            if each.remedy:
                yield f"{each.name}: {tables.printable(each.remedy)}"

    findings = check_host(load(config).settings, run_pod=run_pod)
    tables.emit(output, findings, lambda: "\n".join(lines(findings)))
    if any(each.level is Level.FAIL for each in findings):
        click.get_current_context().exit(ExitStatus.FAILED)


@click.command("stop")
@click.option("--all", "everything", is_flag=True, help="End steps, services and applications too")
@click.option(
    "--timeout",
    "timeout_s",
    type=Seconds(),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait",
)
@settings_options
@output_option
def stop(everything: bool, timeout_s: float, config: Path | None, output: Output) -> None:
    """Stop the daemon and wait until it is gone. Steps, services and applications go on, unless --all is given;
    with --all what a daemon that is gone has left is ended too."""
    from fusemld.api import views
    from fusemld.api.client import Client

    settings = load(config).settings
    client = Client(settings.socket)
    try:
        health = client.get("/health", views.HealthView)
    except UnreachableError:
        if not everything:
            raise
        was_there = _stop_leftovers(config)
        said = {"stopped": False, "everything": True}
        told = (
            "ended what it had left" if was_there else f"none has used {tables.printable(str(settings.state))} yet"
        )
        tables.emit(output, said, lambda: f"no daemon was running; {told}")
        return
    process = _opened(health.pid)
    client.send("POST", "/stop", views.StopDaemon(everything=everything))
    if process is not None and not _ended(process, timeout_s):
        raise FusemldError(f"cannot stop the daemon (process {health.pid}): it still runs after {timeout_s:g} s")
    said = {"stopped": True, "everything": everything}
    more = " and everything it had started" if everything else ""
    tables.emit(output, said, lambda: f"stopped the daemon{more}")


def _stop_leftovers(config: Path | None) -> bool:
    import anyio

    from fusemld.daemon.lifecycle import stop_everything

    return anyio.run(stop_everything, load(config).settings)


def load(config: Path | None) -> Loaded:
    return load_settings(config, click.get_current_context().meta.get(_FLAGS, {}))


def _opened(pid: int) -> int | None:
    """A descriptor that tells when the process ends, None where it has."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _ended(process: int, timeout_s: float) -> bool:
    try:
        return bool(select.select([process], [], [], timeout_s)[0])
    finally:
        os.close(process)
