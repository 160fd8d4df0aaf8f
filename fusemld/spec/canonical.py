"""A document as JSON in a normal form: equal content gives equal text, whatever its layout and comments."""

from __future__ import annotations

import hashlib

import msgspec

from fusemld.model.document import Declared
from fusemld.model.extension import Credentials, Extension
from fusemld.model.workflow import Workflow

HIDDEN = "***"


def canonical_of(declared: Declared) -> tuple[str, str]:
    """The text, in which an extension's credentials are hidden, and the digest, for which they count."""
    full = msgspec.json.encode(declared, order="deterministic")
    shown = _without_secrets(declared) if isinstance(declared, Extension) else declared
    text = msgspec.json.encode(shown, order="deterministic").decode()
    return text, hashlib.sha256(type(declared).__name__.encode() + b"\n" + full).hexdigest()


def workflow_from_canonical(canonical: str) -> Workflow:
    """The workflow that `canonical_of` was given. Raises `msgspec.MsgspecError` for anything else."""
    return msgspec.json.decode(canonical, type=Workflow)


def _without_secrets(extension: Extension) -> Extension:
    return msgspec.structs.replace(
        extension,
        services=tuple(
            msgspec.structs.replace(service, credentials=tuple(_hidden(entry) for entry in service.credentials))
            for service in extension.services
        ),
    )


def _hidden(credentials: Credentials) -> Credentials:
    configuration = {
        key: HIDDEN if isinstance(value, str) else value for key, value in credentials.configuration.items()
    }
    return msgspec.structs.replace(credentials, configuration=configuration)
