"""The one table from errors to HTTP answers."""

from __future__ import annotations

import secrets
from http import HTTPStatus

import msgspec
import structlog

from fusemld.model import errors

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

STATUSES: dict[type[errors.FusemldError], tuple[HTTPStatus, str]] = {
    errors.InvalidInputError: (HTTPStatus.BAD_REQUEST, "bad_request"),
    errors.NotFoundError: (HTTPStatus.NOT_FOUND, "not_found"),
    errors.ConflictError: (HTTPStatus.CONFLICT, "conflict"),
    errors.ForbiddenError: (HTTPStatus.FORBIDDEN, "forbidden"),
    errors.UnavailableError: (HTTPStatus.SERVICE_UNAVAILABLE, "unavailable"),
    errors.StartError: (HTTPStatus.UNPROCESSABLE_ENTITY, "cannot_start"),
}
"""The nearest class counts; everything else is a fault of ours: 500, and its text stays in the log."""

MEDIA_TYPE = "application/vnd.goa.error"


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The reference's `Error`. `name` is for programs, `message` for people; `id` is also in the daemon's log."""

    name: str
    id: str
    message: str
    temporary: bool = False
    timeout: bool = False
    fault: bool = False


def answer(error: Exception) -> tuple[HTTPStatus, ErrorBody]:
    """What the client gets to see. Logs what is our own fault, with its trace; nobody else needs to."""
    identifier = secrets.token_hex(4)
    for kind in type(error).__mro__:
        if kind in STATUSES:
            status, name = STATUSES[kind]
            temporary = status is HTTPStatus.SERVICE_UNAVAILABLE
            return status, ErrorBody(name=name, id=identifier, message=str(error), temporary=temporary)
    log.error("api.failed", id=identifier, exc_info=error)
    message = f"internal error; the daemon's log has more under the id {identifier}"
    return HTTPStatus.INTERNAL_SERVER_ERROR, ErrorBody(name="fault", id=identifier, message=message, fault=True)


def refusal(status: HTTPStatus, name: str, message: str) -> tuple[HTTPStatus, ErrorBody]:
    """An answer that no error of the family stands for: an unknown path, a method, a body that is too large."""
    return status, ErrorBody(name=name, id=secrets.token_hex(4), message=message)
