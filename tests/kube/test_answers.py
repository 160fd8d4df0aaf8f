from __future__ import annotations

import pytest

from fusemld.kube import answers
from fusemld.model.errors import (
    ConflictError,
    ForbiddenError,
    FusemldError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidInputError),
        (401, ForbiddenError),
        (403, ForbiddenError),
        (404, NotFoundError),
        (405, InvalidInputError),
        (409, ConflictError),
        (410, answers.ExpiredError),
        (422, InvalidInputError),
        (429, UnavailableError),
        (500, UnavailableError),
        (503, UnavailableError),
        (504, UnavailableError),
        (302, InvalidInputError),
    ],
)
def test_every_status_has_an_error_of_our_family(status: int, kind: type[FusemldError]) -> None:
    error = answers.error("create /x", status, "because")

    assert type(error) is kind
    assert str(error) == "cannot create /x: because"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"kind":"Status","message":"pods \\"a\\" not found","code":404}', 'pods "a" not found'),
        (b"404 page not found\n", "404 page not found"),
        (b'{"message":""}', "HTTP status 404"),
        (b"", "HTTP status 404"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"x" * 10_000, "x" * 2000),
    ],
)
def test_the_server_is_quoted_whatever_it_sends(body: bytes, said: str) -> None:
    assert answers.words(body, "HTTP status 404") == said


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("3", 3.0), ("0", 0.0), ("nan", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None)],
)
def test_retry_after_is_read_in_seconds(header: str | None, seconds: float | None) -> None:
    assert answers.retry_after_s(header) == seconds


@pytest.mark.parametrize(
    ("status", "retry_after", "expected"),
    [
        (429, None, True),
        (429, "1", True),
        (503, "1", True),
        (503, None, False),
        (500, "1", False),
        (504, "1", False),
    ],
)
def test_only_what_was_not_begun_counts_as_refused(status: int, retry_after: str | None, expected: bool) -> None:
    assert answers.is_refusal(status, retry_after) is expected
