"""What an answer of an API server means: our own errors, with the server's words."""

from __future__ import annotations

import math
from http import HTTPStatus

import msgspec

from fusemld.model.errors import (
    ConflictError,
    ForbiddenError,
    FusemldError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)

_LONGEST_WORDS = 2000


class ExpiredError(FusemldError):
    """the server no longer has the asked version: everything must be listed anew"""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a `Status` object that matter here."""

    code: int = 0
    reason: str = ""
    message: str = ""


def words(body: bytes, fallback: str) -> str:
    """What the server says about a failure; a proxy in between may answer anything."""
    try:
        said = msgspec.json.decode(body, type=Status).message
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = body[:_LONGEST_WORDS].decode(errors="replace").strip()
    return said[:_LONGEST_WORDS] or fallback


def error(doing: str, status: int, said: str) -> FusemldError:
    """The error that a refusal means; `doing` is like `create /api/v1/...`."""
    text = f"cannot {doing}: {said}"
    match status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return ForbiddenError(text)
        case HTTPStatus.NOT_FOUND:
            return NotFoundError(text)
        case HTTPStatus.CONFLICT:
            return ConflictError(text)
        case HTTPStatus.GONE:
            return ExpiredError(text)
        case HTTPStatus.TOO_MANY_REQUESTS:
            return UnavailableError(text)
        case _ if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return UnavailableError(text)
        case _:
            return InvalidInputError(text)


def retry_after_s(header: str | None) -> float | None:
    """Of a `Retry-After` in seconds; a date, which API servers do not send, counts as nothing said."""
    try:
        seconds = math.nan if header is None else float(header)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None


def is_refusal(status: int, retry_after: str | None) -> bool:
    """Whether the server did not even begin with the request and wants it later."""
    return status == HTTPStatus.TOO_MANY_REQUESTS or (
        status == HTTPStatus.SERVICE_UNAVAILABLE and retry_after is not None
    )
