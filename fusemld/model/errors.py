"""The one family of errors. Text is "cannot <verb> <thing>: <cause>".

`fusemld.api.errors` maps the classes to HTTP statuses, `fusemld.cli` to exit codes.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator


class FusemldError(Exception):
    """something went wrong"""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class InvalidInputError(FusemldError):
    """the request or the document is wrong, and repeating it will not help"""


class NotFoundError(FusemldError):
    """there is no such thing"""


class ConflictError(FusemldError):
    """the thing is not in a state that allows this"""


class ForbiddenError(FusemldError):
    """the caller may not do this"""


class UnavailableError(FusemldError):
    """something outside cannot be reached now; it may work later"""


class UnreachableError(UnavailableError):
    """the daemon cannot be reached, or went away in the middle"""


class StartError(FusemldError):
    """a step, a service or the daemon itself cannot be started as it is described"""


class ImpossibleTransitionError(FusemldError):
    """an event does not fit the state of its run: a bug, raised with the history of the run"""


_PASSING = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
)


def may_pass(error: OSError) -> bool:
    """Whether it is for want of something that comes back: room on a disk, one that can be written, descriptors,
    memory. It says nothing about what was to be done."""
    return error.errno in _PASSING


def leaves(error: BaseException) -> Iterator[BaseException]:
    """What task groups have wrapped, however deeply; the error itself where it is no group."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from leaves(each)
    else:
        yield error
