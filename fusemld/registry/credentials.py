"""Configuration of a resolved service: merged, with references to secrets followed where the settings allow it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from fusemld.model.errors import StartError
from fusemld.model.extension import Extension, SecretReference, Selectors, ServiceAccess
from fusemld.model.template import Template
from fusemld.model.workflow import Requirement
from fusemld.registry.matching import Candidate, refusal

MAX_SECRET_BYTES: Final = 1024 * 1024


class AllowedSources(msgspec.Struct, frozen=True, kw_only=True):
    """Where records may take secrets from: variables of the daemon's environment, files below folders, and Secrets
    of the configured cluster, as patterns `NAMESPACE/NAME`.

    Nothing by default: whoever may drop a record must not thereby read the host.
    """

    variables: frozenset[str] = frozenset()
    folders: tuple[Path, ...] = ()
    secrets: tuple[str, ...] = ()


class MergedConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration of all requirements of a step; `secret` are those that come from credentials."""

    plain: dict[str, str] = {}
    secret: dict[str, str] = {}
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"MergedConfiguration(plain={sorted(self.plain)!r}, secret={sorted(self.secret)!r})"


def access_to(
    candidate: Candidate, requirement: str, allowed: AllowedSources, from_cluster: Mapping[str, str]
) -> ServiceAccess:
    """Extension < service < endpoint < credentials. `from_cluster` has the values of `from_secret` references.
    Blocks on small files; raises `StartError`."""
    configuration = {**candidate.extension.configuration, **candidate.service.configuration}
    if candidate.endpoint is not None:
        configuration |= candidate.endpoint.configuration
    secrets: dict[str, str] = {}
    if candidate.credentials is not None:
        for key, value in candidate.credentials.configuration.items():
            if isinstance(value, str):
                secrets[key] = value
            elif value.from_secret is not None:
                secrets[key] = from_cluster[value.from_secret]
            else:
                secrets[key] = _fetch(value, subject(candidate, key), allowed)
    return ServiceAccess(
        service=candidate.resolved(requirement),
        configuration=configuration | secrets,
        secret_keys=frozenset(secrets),
    )


def subject(candidate: Candidate, key: str) -> str:
    """What messages call a credential."""
    credentials = "" if candidate.credentials is None else candidate.credentials.id
    return f"{key!r} of {candidate.extension.id}/{candidate.service.id}/{credentials}"


def merge_configurations(accesses: Iterable[ServiceAccess]) -> MergedConfiguration:
    """Of the requirements of a step in listed order: of two that set a key differently the later wins."""
    merged: dict[str, tuple[str, bool, str]] = {}
    warnings: list[str] = []
    for access in accesses:
        name = access.service.requirement
        for key, value in access.configuration.items():
            if key in merged and merged[key][0] != value:
                warnings.append(
                    f"extensions {merged[key][2]!r} and {name!r} set {key!r} differently: {name!r} wins"
                )
            stays_secret = key in merged and merged[key][:2] == (value, True)
            merged[key] = (value, stays_secret or key in access.secret_keys, name)
    return MergedConfiguration(
        plain={key: value for key, (value, is_secret, _) in merged.items() if not is_secret},
        secret={key: value for key, (value, is_secret, _) in merged.items() if is_secret},
        warnings=tuple(warnings),
    )


def secret_keys(requirement: Requirement | Selectors, records: Iterable[Extension]) -> frozenset[str]:
    """The keys that any record which may match holds under credentials, whoever they are for.

    Selectors that hold expressions may turn out to be anything.
    """
    selectors = _known_selectors(requirement) if isinstance(requirement, Requirement) else requirement
    return frozenset(
        key
        for record in records
        for service in record.services
        if refusal(selectors, record, service) is None
        for credentials in service.credentials
        for key in credentials.configuration
    )


def _known_selectors(requirement: Requirement) -> Selectors:
    return Selectors(
        name=requirement.name,
        extension_id=_known(requirement.extension_id),
        service_id=_known(requirement.service_id),
        product=_known(requirement.product),
        version=_known(requirement.version),
        zone=_known(requirement.zone),
        service_resource=_known(requirement.service_resource),
        service_category=_known(requirement.service_category),
    )


def _known(template: Template | None) -> str | None:
    return None if template is None or template.references else str(template)


def _fetch(reference: SecretReference, what: str, allowed: AllowedSources) -> str:
    if reference.from_env is not None:
        return _from_variable(reference.from_env, what, allowed.variables)
    assert reference.from_file is not None, "one of the three is set, and Secrets are read from the cluster"
    return _from_file(Path(reference.from_file), what, allowed.folders)


def _from_variable(name: str, what: str, allowed: frozenset[str]) -> str:
    if name not in allowed:
        raise StartError(
            f"cannot read the credential {what}: the settings do not allow records to read the variable {name!r}; "
            "an administrator can allow it with the setting secrets.env"
        )
    value = os.environ.get(name)
    if value is None:
        raise StartError(f"cannot read the credential {what}: the daemon's environment has no variable {name!r}")
    return value


def _from_file(path: Path, what: str, allowed: Sequence[Path]) -> str:
    """The real file counts, not the name: links that lead out of the allowed folders are refused."""
    try:
        real = path.resolve(strict=True) if _is_below(path.resolve(), allowed) else None
        if real is None:
            raise StartError(
                f"cannot read the credential {what}: the settings do not allow records to read {str(path)!r}; "
                "an administrator can allow its folder with the setting secrets.files"
            )
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            opened = Path(f"/proc/self/fd/{descriptor}").readlink()
            if not _is_below(opened, allowed) or not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StartError(
                    f"cannot read the credential {what}: {str(path)!r} is not a file that may be read"
                )
            data = file.read(MAX_SECRET_BYTES + 1)
        if len(data) > MAX_SECRET_BYTES:
            raise StartError(f"cannot read the credential {what}: {str(path)!r} is larger than 1 MiB")
        return data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise StartError(f"cannot read the credential {what}: {str(path)!r} is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise StartError(f"cannot read the credential {what}: {str(path)!r}: {reason}") from error


def _is_below(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder.resolve()) for folder in folders)
