"""What it means for an attempt that the API server does not take something."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fusemld.model.errors import (
    ConflictError,
    ForbiddenError,
    FusemldError,
    InvalidInputError,
    NotFoundError,
    StartError,
    UnavailableError,
)

_QUOTA = "exceeded quota"
"""k8s.io/apiserver/pkg/admission/plugin/resourcequota/controller.go"""
_UNAUTHORIZED = "Unauthorized"
_TAKEN = "already exists"
"""Of a 409. Another one is that of a quota that many change at once."""


class NotNowError(UnavailableError):
    """the API server refuses now what it may take later; nothing was done"""


class RefusedError(StartError):
    """the API server does not allow it, which is to be believed once it has said so for `REFUSED_S`"""


@contextlib.contextmanager
def creating(what: str) -> Iterator[None]:
    """Lets `UnavailableError` through, and `ConflictError` where there is something of that name. A refusal that
    passes by itself (a quota, credentials that are being renewed) becomes a `NotNowError`, one that may a
    `RefusedError`, any other a `StartError`, all with the server's words."""
    try:
        yield
    except ConflictError as error:
        if is_taken(error):
            raise
        raise NotNowError(f"cannot create {what} now: {_words(error)}") from error
    except ForbiddenError as error:
        if _QUOTA in str(error) or _words(error) == _UNAUTHORIZED:
            raise NotNowError(f"cannot create {what} now: {_words(error)}") from error
        raise RefusedError(f"cannot create {what}: the cluster refuses: {_words(error)}") from error
    except (InvalidInputError, NotFoundError) as error:
        raise StartError(f"cannot create {what}: the cluster refuses: {_words(error)}") from error


@contextlib.contextmanager
def in_doubt() -> Iterator[None]:
    """For what concerns a pod that may be there: a refusal says nothing about it and becomes an
    `UnavailableError`."""
    try:
        yield
    except ForbiddenError as error:
        raise UnavailableError(str(error)) from error


def is_taken(error: ConflictError) -> bool:
    """Whether there is something of that name."""
    return _TAKEN in str(error)


def _words(error: FusemldError) -> str:
    """Those of the server, without what was asked."""
    return str(error).partition(": ")[2] or str(error)
