"""Exit statuses, and the one place where errors become words on standard error.

| status | meaning |
| --- | --- |
| 0 | done; a run that was waited for succeeded |
| 1 | a run that was waited for failed, a file has problems, a check failed, or the daemon could not do it |
| 2 | wrong usage, or input that the daemon refuses |
| 3 | there is no such run, workflow, file... |
| 4 | the daemon cannot be reached |
| 5 | the daemon refuses this user |
| 6 | the thing is not in a state that allows this |
| 130 | interrupted by the user |
"""

from __future__ import annotations

import enum
import errno
import sys

import click

from fusemld.model import errors


class ExitStatus(enum.IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    FORBIDDEN = 5
    CONFLICT = 6
    INTERRUPTED = 130


STATUSES: dict[type[errors.FusemldError], ExitStatus] = {
    errors.InvalidInputError: ExitStatus.USAGE,
    errors.NotFoundError: ExitStatus.NOT_FOUND,
    errors.UnreachableError: ExitStatus.UNREACHABLE,
    errors.ForbiddenError: ExitStatus.FORBIDDEN,
    errors.ConflictError: ExitStatus.CONFLICT,
}
"""The nearest class counts; everything else is 1."""

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""How output fails that goes into a file; what commands write elsewhere has errors of the family."""


def status_of(error: errors.FusemldError) -> ExitStatus:
    for kind in type(error).__mro__:
        if kind in STATUSES:
            return STATUSES[kind]
    return ExitStatus.FAILED


def run_command(command: click.Group, name: str) -> int:
    """Run the program and return its exit status; every error is one message, never a trace, also where the task
    group of a store or a cluster has wrapped it."""
    try:
        result = command.main(prog_name=name, standalone_mode=False)
    except BrokenPipeError:
        # Whoever read our output has enough; Python must not complain again while it shuts down.
        sys.stdout = None
        return ExitStatus.FAILED
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        sys.stdout = None
        click.echo(f"{name}: cannot write: {error.strerror}", err=True)
        return ExitStatus.FAILED
    except BaseException as error:
        status = _told(tuple(errors.leaves(error)), name)
        if status is None:
            raise
        return status
    return result if isinstance(result, int) else ExitStatus.OK


def _told(found: tuple[BaseException, ...], name: str) -> ExitStatus | None:
    """Say what was foreseeable, and give the status of the first; None, and not a word, where anything was not."""
    statuses = [_status(error) for error in found]
    if None in statuses:
        return None
    for error in found:
        if isinstance(error, click.ClickException):
            error.show()
        elif isinstance(error, errors.FusemldError):
            click.echo(f"{name}: {error}", err=True)
    return statuses[0]


def _status(error: BaseException) -> ExitStatus | None:
    match error:
        case click.ClickException():
            return ExitStatus.USAGE
        case click.Abort() | KeyboardInterrupt():
            return ExitStatus.INTERRUPTED
        case errors.FusemldError():
            return status_of(error)
        case _:
            return None
