"""`fuseml extension`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from fusemld.api import registry_views
from fusemld.api.client import url
from fusemld.cli import tables
from fusemld.cli.exits import ExitStatus
from fusemld.cli.options import Output, argument, connect, output_option, socket_option

_project_option = click.option("--project", help="As for a run of this project  [default: default]")
_user_option = click.option("--user", help="As for a run of this user  [default: you]")


@click.group("extension")
@socket_option
def extension() -> None:
    """The Extension Registry: what steps can be given access to."""


@extension.command("list")
@output_option
@socket_option
def list_extensions(output: Output) -> None:
    """List the records, one line per service."""
    found = connect().get("/extensions", tuple[registry_views.ExtensionView, ...])

    def table() -> str:
        if not found:
            return "no extensions yet: drop a record into the watched folder; embedded services need none"
        headings = ("id", "product", "version", "zone", "service", "resource", "category", "endpoints", "origin")
        return tables.table(headings, (row for each in found for row in _rows(each)))

    tables.emit(output, found, table)


@extension.command("get")
@argument("id")
@output_option
@socket_option
def get(id: str, output: Output) -> None:  # noqa: A002
    """Show one record; the values of credentials stay hidden."""
    found = connect().get(url("extensions", id), registry_views.ExtensionView)
    tables.emit(output, found, lambda: "\n".join(_described(found)))


@extension.command("explain")
@argument("workflow")
@_project_option
@_user_option
@output_option
@socket_option
def explain(workflow: str, project: str | None, user: str | None, output: Output) -> None:
    """Show what every requirement of WORKFLOW resolves to, and why nothing else; exit 1 if one has no match."""
    path = url("workflows", workflow, "explain")
    found = connect().get(path, registry_views.ExplanationView, project=project, user=user)
    tables.emit(output, found, lambda: "\n".join(_explained(found)))
    if any(requirement.picked is None for requirement in found.requirements):
        click.get_current_context().exit(ExitStatus.FAILED)


@extension.command("check")
@argument("id")
@_project_option
@_user_option
@output_option
@socket_option
def check(id: str, project: str | None, user: str | None, output: Output) -> None:  # noqa: A002
    """Ask the live services of a record whether it is right; exit 1 if one says no."""
    path = url("extensions", id, "check")
    found = connect().post(path, tuple[registry_views.CheckView, ...], project=project, user=user)

    def table() -> str:
        if not found:
            return "nothing to ask: no plugin knows the services of this record"
        rows = ((each.service_id, each.url, "ok" if each.ok else "fail", each.message) for each in found)
        return tables.table(("service", "url", "state", "message"), rows)

    tables.emit(output, found, table)
    if not all(each.ok for each in found):
        click.get_current_context().exit(ExitStatus.FAILED)


def _rows(extension: registry_views.ExtensionView) -> Iterator[tuple[str, ...]]:
    own = (extension.id, extension.product, extension.version, extension.zone)
    if not extension.services:
        yield (*own, "", "", "", "", extension.origin)
    for service in extension.services:
        endpoints = ", ".join(endpoint.url for endpoint in service.endpoints)
        yield (*own, service.id, service.resource, service.category, endpoints, extension.origin)


def _described(extension: registry_views.ExtensionView) -> Iterator[str]:
    yield tables.fields(
        (
            ("extension", extension.id),
            ("product", extension.product),
            ("version", extension.version),
            ("zone", extension.zone),
            ("description", extension.description),
            ("configuration", _pairs(extension.configuration)),
            ("origin", extension.origin),
        )
    )
    for service in extension.services:
        yield ""
        yield tables.fields(
            (
                ("service", service.id),
                ("resource", service.resource),
                ("category", service.category),
                ("description", service.description),
                ("authentication", "required" if service.auth_required else ""),
                ("configuration", _pairs(service.configuration)),
            )
        )
        for endpoint in service.endpoints:
            configuration = _pairs(endpoint.configuration)
            yield tables.printable(f"  endpoint {endpoint.url} ({endpoint.type}) {configuration}".rstrip())
        for credentials in service.credentials:
            default = ", default" if credentials.default else ""
            whom = ", ".join([*credentials.projects, *credentials.users])
            scope = f"{credentials.scope}{f': {whom}' if whom else ''}{default}"
            line = f"  credentials {credentials.id} ({scope}) {_pairs(credentials.configuration)}"
            yield tables.printable(line.rstrip())


def _explained(found: registry_views.ExplanationView) -> Iterator[str]:
    zone = f" in zone {found.zone}" if found.zone else ""
    yield f"{found.workflow} for project {found.project} and user {found.user}{zone}"
    if not found.requirements:
        yield "no step asks for an extension"
    for each in found.requirements:
        wanted = ", ".join(_wanted(each)) or "anything"
        yield ""
        yield tables.printable(f"{each.step}: {each.requirement} (wants {wanted})")
        if each.picked:
            place = f"{each.picked.extension_id}/{each.picked.service_id} {each.picked.url}".rstrip()
            origin = f" from {each.origin}" if each.origin else ""
            so_far = ", as far as that can be known" if each.unknown else ""
            yield tables.printable(f"  picked {place}{origin}{so_far}")
        else:
            yield tables.printable(f"  nothing fits: {each.reason}")
        for miss in each.near_misses:
            name = f"{miss.extension_id}/{miss.service_id}" if miss.service_id else miss.extension_id
            yield tables.printable(f"  not {name}: {miss.selector}: {miss.reason}")


def _wanted(each: registry_views.ExplainedRequirement) -> list[str]:
    known = [f"{name} {value}" for name, value in each.wanted.items()]
    return known + [f"{name} not known before there is a run" for name in each.unknown]


def _pairs(configuration: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in configuration.items())
