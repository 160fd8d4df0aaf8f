from __future__ import annotations

import pytest

from fusemld.executors.kubernetes.refusals import NotNowError, RefusedError, creating, in_doubt
from fusemld.model.errors import (
    ConflictError,
    ForbiddenError,
    FusemldError,
    InvalidInputError,
    NotFoundError,
    StartError,
    UnavailableError,
)

PODS = "cannot create /api/v1/namespaces/x/pods: "


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (ConflictError(f'{PODS}pods "a" already exists'), ConflictError),
        (ConflictError(f'{PODS}Operation cannot be fulfilled on resourcequotas "q": modified'), NotNowError),
        (ForbiddenError(f'{PODS}pods "a" is forbidden: exceeded quota: q, requested: pods=1'), NotNowError),
        (ForbiddenError(f"{PODS}Unauthorized"), NotNowError),
        (ForbiddenError(f'{PODS}admission webhook "w" denied the request: Unauthorized image'), RefusedError),
        (ForbiddenError(f'{PODS}pods is forbidden: User "u" cannot create resource "pods"'), RefusedError),
        (InvalidInputError(f'{PODS}Pod "a" is invalid: spec'), StartError),
        (NotFoundError(f'{PODS}namespaces "x" not found'), StartError),
        (UnavailableError(f"{PODS}no connection"), UnavailableError),
    ],
)
def test_what_passes_by_itself_is_told_from_what_does_not(said: FusemldError, meant: type[FusemldError]) -> None:
    with pytest.raises(meant, match=str(said).partition(": ")[2]) as raised, creating("pod a"):
        raise said

    assert type(raised.value) is meant


def test_a_refusal_says_nothing_about_a_pod_that_may_be_there() -> None:
    with pytest.raises(UnavailableError, match="forbidden"), in_doubt():
        raise ForbiddenError("cannot get it: forbidden")
