"""What it means for an attempt that the API server does not take something."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fusemld.model.errors import (
    ForbiddenError,
    FusemldError,
    InvalidInputError,
    NotFoundError,
    StartError,
    UnavailableError,
)

_NOT_NOW = ("exceeded quota", "Unauthorized")
"""In the server's words about a refusal (401, 403) that passes: others' pods end, credentials are renewed.
k8s.io/apiserver/pkg/admission/plugin/resourcequota/controller.go"""


@contextlib.contextmanager
def creating(what: str) -> Iterator[None]:
    """Lets `UnavailableError` and `ConflictError` through. A refusal that passes by itself becomes the former, any
    other a `StartError` with the server's words."""
    try:
        yield
    except ForbiddenError as error:
        if any(words in str(error) for words in _NOT_NOW):
            raise UnavailableError(f"cannot create {what} now: {_words(error)}") from error
        raise StartError(f"cannot create {what}: the cluster refuses: {_words(error)}") from error
    except (InvalidInputError, NotFoundError) as error:
        raise StartError(f"cannot create {what}: the cluster refuses: {_words(error)}") from error


def _words(error: FusemldError) -> str:
    """Those of the server, without what was asked."""
    return str(error).partition(": ")[2] or str(error)
