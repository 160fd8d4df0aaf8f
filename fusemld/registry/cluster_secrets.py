"""Credentials that are kept in Secrets of the configured cluster, read when a requirement is resolved."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import msgspec

from fusemld.hooks.clusters import Cluster, Json
from fusemld.model.errors import ForbiddenError, NotFoundError, StartError
from fusemld.model.extension import SecretReference
from fusemld.registry.credentials import subject
from fusemld.registry.matching import Candidate

_NAME = r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?"
_REFERENCE = re.compile(rf"({_NAME})/({_NAME})/([-._a-zA-Z0-9]+)")


class _Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """`what` names the credential for messages."""

    what: str
    text: str
    namespace: str
    name: str
    key: str


async def read_secrets(candidate: Candidate, allowed: Sequence[str], cluster: Cluster | None) -> Mapping[str, str]:
    """The values behind the `from_secret` references of the candidate's credentials, by reference.

    `allowed` are patterns `NAMESPACE/NAME`. Raises `StartError` that names the reference and never holds a value,
    `UnavailableError` where the cluster cannot be reached now.
    """
    values: dict[str, str] = {}
    objects: dict[tuple[str, str], Json] = {}
    for wanted in _wanted(candidate, allowed):
        if cluster is None:
            raise StartError(
                f"cannot read the credential {wanted.what}: Secrets (from_secret) are read from the configured "
                "cluster, and none is configured; set kubernetes.kubeconfig or kubernetes.in_cluster"
            )
        place = wanted.namespace, wanted.name
        if place not in objects:
            objects[place] = await _secret(cluster, wanted)
        values[wanted.text] = _value(objects[place], wanted)
    return values


def _wanted(candidate: Candidate, allowed: Sequence[str]) -> Iterable[_Wanted]:
    configuration = {} if candidate.credentials is None else candidate.credentials.configuration
    for key, value in configuration.items():
        if not isinstance(value, SecretReference) or value.from_secret is None:
            continue
        what, text = subject(candidate, key), value.from_secret
        parts = _REFERENCE.fullmatch(text)
        if parts is None:
            raise StartError(
                f"cannot read the credential {what}: {text!r} is not a reference to a Secret: "
                "write NAMESPACE/NAME/KEY"
            )
        if not any(_is_allowed(parts[1], parts[2], pattern) for pattern in allowed):
            raise StartError(
                f"cannot read the credential {what}: the settings do not allow records to read the Secret "
                f"{parts[1]}/{parts[2]}; an administrator can allow it with the setting secrets.secrets"
            )
        yield _Wanted(what=what, text=text, namespace=parts[1], name=parts[2], key=parts[3])


def _is_allowed(namespace: str, name: str, pattern: str) -> bool:
    allowed_namespace, _, allowed_name = pattern.partition("/")
    return fnmatchcase(namespace, allowed_namespace) and fnmatchcase(name, allowed_name)


async def _secret(cluster: Cluster, wanted: _Wanted) -> Json:
    try:
        return await cluster.get(f"/api/v1/namespaces/{wanted.namespace}/secrets/{wanted.name}")
    except NotFoundError as error:
        raise StartError(
            f"cannot read the credential {wanted.what}: there is no Secret {wanted.namespace}/{wanted.name} "
            f"in the cluster {cluster.name}"
        ) from error
    except ForbiddenError as error:
        raise StartError(
            f"cannot read the credential {wanted.what} from the Secret {wanted.namespace}/{wanted.name}: {error}; "
            f"grant the daemon the verb get on secrets, resourceNames [{wanted.name}]"
        ) from error


def _value(secret: Json, wanted: _Wanted) -> str:
    data: Mapping[str, str] = secret.get("data") or {}
    if wanted.key not in data:
        raise StartError(
            f"cannot read the credential {wanted.what}: the Secret {wanted.namespace}/{wanted.name} has no key "
            f"{wanted.key!r}"
        )
    try:
        return base64.b64decode(data[wanted.key], validate=True).decode().rstrip("\r\n")
    except (binascii.Error, UnicodeDecodeError):
        raise StartError(f"cannot read the credential {wanted.what}: {wanted.text} is not UTF-8 text") from None
