"""The meaning of extensions, codesets, assignments and run requests: from their shapes to the model."""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Final, TypeVar

from fusemld.model.codeset import DEFAULT_PROJECT, Codeset, CodesetReference, parse_reference
from fusemld.model.document import Assignment, RunRequest
from fusemld.model.extension import Credentials, Endpoint, Extension, Scope, SecretReference, Service
from fusemld.spec.leaves import Text
from fusemld.spec.nodes import Place
from fusemld.spec.reader import Findings
from fusemld.spec.shapes import (
    AssignedCodesetShape,
    AssignmentShape,
    CodesetShape,
    CredentialsShape,
    EndpointShape,
    ExtensionShape,
    RunShape,
    SecretReferenceShape,
    ServiceShape,
)
from fusemld.spec.values import codeset_complaint

T = TypeVar("T", bound=Text)

_GIT_URL: Final = re.compile(
    r"(?P<scheme>https?|ssh|git|file)://(?P<authority>[^/]*)(?P<path>/.*)?", re.IGNORECASE | re.DOTALL
)
_SCP_URL: Final = re.compile(r"([A-Za-z0-9._-]+@)?[A-Za-z0-9][A-Za-z0-9.-]*:(?!//)[^\s:]+")


def read_extension(shape: ExtensionShape, findings: Findings) -> Extension:
    """Nothing under `credentials` is ever quoted in a message."""
    _check_unique((service.id for service in shape.services), "services", findings)
    return Extension(
        id=shape.id.text,
        product=_text(shape.product),
        version=_text(shape.version),
        zone=_text(shape.zone),
        description=_text(shape.description),
        configuration=_table(shape.configuration),
        services=tuple(_service(service, findings) for service in shape.services),
    )


def _service(shape: ServiceShape, findings: Findings) -> Service:
    _check_unique((entry.id for entry in shape.credentials), f"credentials of service {shape.id.text!r}", findings)
    if None not in (shape.auth_required, shape.authrequired) and shape.auth_required != shape.authrequired:
        findings.error("'auth_required' and 'authrequired' disagree: remove one of them", shape.id.place)
    return Service(
        id=shape.id.text,
        resource=_text(shape.resource),
        category=_text(shape.category),
        auth_required=bool(shape.auth_required or shape.authrequired),
        description=_text(shape.description),
        configuration=_table(shape.configuration),
        endpoints=tuple(_endpoint(endpoint, findings) for endpoint in shape.endpoints),
        credentials=tuple(_credentials(entry, findings) for entry in shape.credentials),
    )


def _endpoint(shape: EndpointShape, findings: Findings) -> Endpoint:
    if not shape.url:
        findings.error(
            "the url of an endpoint is empty: give its address, or remove the endpoint", shape.url.place
        )
    if (secret := _secret_in(shape.url)) is not None:
        findings.error(
            f"the url of an endpoint holds {secret}, and URLs are not secret: "
            "move it to the service's 'credentials'",
            shape.url.place,
        )
    return Endpoint(url=shape.url.text, type=shape.type, configuration=_table(shape.configuration))


def _credentials(shape: CredentialsShape, findings: Findings) -> Credentials:
    if shape.scope is Scope.PROJECT and not shape.projects:
        findings.error("credentials of scope project need 'projects': list who may use them", shape.id.place)
    if shape.scope is Scope.USER and not shape.users:
        findings.error("credentials of scope user need 'users': list who may use them", shape.id.place)
    return Credentials(
        id=shape.id.text,
        scope=shape.scope,
        default=shape.default,
        projects=tuple(project.text for project in shape.projects),
        users=tuple(user.text for user in shape.users),
        configuration={
            key.text: value.text if isinstance(value, Text) else _secret_reference(value, key.place, findings)
            for key, value in shape.configuration.items()
        },
    )


def _secret_reference(shape: SecretReferenceShape, place: Place, findings: Findings) -> SecretReference:
    given = [text for text in (shape.from_env, shape.from_file, shape.from_secret) if text is not None]
    if len(given) != 1:
        findings.error("a reference to a secret has exactly one of from_env, from_file and from_secret", place)
    if shape.from_file is not None and not shape.from_file.startswith("/"):
        findings.error("'from_file' must be an absolute path: start it with '/'", shape.from_file.place)
    if shape.from_secret is not None and len([part for part in shape.from_secret.split("/") if part]) != 3:
        findings.error("'from_secret' must be NAMESPACE/NAME/KEY", shape.from_secret.place)
    return SecretReference(
        from_env=_optional(shape.from_env),
        from_file=_optional(shape.from_file),
        from_secret=_optional(shape.from_secret),
    )


def read_codeset(shape: CodesetShape, file: PurePath, findings: Findings) -> Codeset:
    """A relative path becomes absolute against the folder of `file`."""
    if (shape.url is None) == (shape.path is None):
        what = "neither a 'url' nor a 'path': add" if shape.url is None else "both a 'url' and a 'path': keep"
        findings.error(f"codeset {shape.name.text!r} has {what} one of them", shape.name.place)
    if shape.url is not None and (complaint := _url_complaint(shape.url)) is not None:
        findings.error(complaint, shape.url.place)
    if shape.path is not None and shape.url is None:
        for field, text in (("ref", shape.ref), ("extension", shape.extension)):
            if text is not None:
                findings.error(
                    f"{field!r} is for git repositories, and this codeset is a folder: remove it", text.place
                )
    path = None
    if shape.path is not None:
        if not shape.path:
            findings.error(
                "the path of a codeset is empty: name a folder, '.' for the one of this file", shape.path.place
            )
        path = os.path.normpath(file.parent / shape.path.text)
    return Codeset(
        project=DEFAULT_PROJECT if shape.project is None else shape.project.text,
        name=shape.name.text,
        description=_text(shape.description),
        labels=tuple(label.text for label in shape.labels),
        url=_optional(shape.url),
        ref=_optional(shape.ref),
        path=path,
        extension=_optional(shape.extension),
    )


def _url_complaint(url: str) -> str | None:
    if (secret := _secret_in(url)) is not None:
        return (
            f"the url holds {secret}, and URLs are not secret: put it under 'credentials' of an extension record "
            "and name that record in 'extension'"
        )
    if _GIT_URL.fullmatch(url) or _SCP_URL.fullmatch(url):
        return None
    return "this is not the url of a git repository: it starts with https://, http://, ssh://, git:// or file://"


def _secret_in(url: str) -> str | None:
    """What in it may be secret. Servers take tokens for user names over HTTP; those of ssh are none."""
    scheme, separator, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user = authority.rpartition("@")[0]
    if not (separator and user):
        return None
    if ":" in user:
        return "a password"
    return "a user name, which may be a token" if scheme.lower() in {"http", "https"} else None


def read_assignment(shape: AssignmentShape, name: str, findings: Findings) -> Assignment:
    """`name` is for an assignment that has none."""
    if not shape.codesets and not findings.has_errors:
        findings.error("an assignment needs at least one codeset: add one under 'codesets'", shape.workflow.place)
    found: dict[CodesetReference, Place] = {}
    for entry in shape.codesets:
        reference, place = _assigned(entry, findings)
        if reference in found:
            findings.error(
                f"the codeset {str(reference)!r} is listed twice (first in line {found[reference].line}): "
                "remove one",
                place,
            )
        found.setdefault(reference, place)
    return Assignment(
        name=name if shape.name is None else shape.name.text,
        workflow=shape.workflow.text,
        codesets=tuple(found),
        input=_optional(shape.input),
        inputs=_table(shape.inputs),
    )


def _assigned(entry: Text | AssignedCodesetShape, findings: Findings) -> tuple[CodesetReference, Place]:
    if isinstance(entry, AssignedCodesetShape):
        project = DEFAULT_PROJECT if entry.project is None else entry.project.text
        return CodesetReference(project=project, name=entry.name.text), entry.name.place
    if (complaint := codeset_complaint(entry.text)) is not None:
        if entry.complaint() is None:
            findings.error(complaint, entry.place)
        return CodesetReference(name=entry.text), entry.place
    return parse_reference(entry.text), entry.place


def read_run(shape: RunShape, name: str) -> RunRequest:
    """`name` is for a request that has none."""
    return RunRequest(
        name=name if shape.name is None else shape.name.text,
        workflow=shape.workflow.text,
        inputs=_table(shape.inputs),
        executor=_optional(shape.executor),
    )


def _check_unique(ids: Iterable[Text], what: str, findings: Findings) -> None:
    first: dict[str, Place] = {}
    for id_ in ids:
        if id_ and id_ in first:
            findings.error(
                f"two {what} have the id {id_.text!r} (the first in line {first[id_].line}): change one", id_.place
            )
        first.setdefault(id_.text, id_.place)


def _table(table: Mapping[T, Text]) -> dict[str, str]:
    return {key.text: value.text for key, value in table.items()}


def _text(text: Text | None) -> str:
    return "" if text is None else text.text


def _optional(text: Text | None) -> str | None:
    return None if text is None else text.text
