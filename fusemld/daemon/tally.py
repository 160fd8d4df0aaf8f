"""What went and what stays of one kind of thing, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from fusemld.api.views import UpkeepPart
from fusemld.model.errors import FusemldError

log = structlog.get_logger(__name__)


class Tally:
    def __init__(self, what: str) -> None:
        self._what = what
        self._removed = 0
        self._removed_bytes = 0
        self._kept_bytes = 0
        self._kept_by: Counter[str] = Counter()
        self._error = ""

    def remove(self, size_bytes: int = 0, count: int = 1) -> None:
        self._removed += count
        self._removed_bytes += size_bytes

    def keep(self, reason: str, size_bytes: int = 0, count: int = 1) -> None:
        """`reason` completes "is kept because it is ..."."""
        self._kept_by[reason] += count
        self._kept_bytes += size_bytes

    def fail(self, error: str) -> None:
        """Say why not everything of this kind could be looked at or removed, here and in the journal."""
        log.warning("retention.failed", what=self._what, error=error)
        self._error = self._error or error

    @property
    def removed(self) -> int:
        return self._removed

    def part(self) -> UpkeepPart:
        return UpkeepPart(
            what=self._what,
            removed=self._removed,
            removed_bytes=self._removed_bytes,
            kept=self._kept_by.total(),
            kept_bytes=self._kept_bytes,
            kept_by={reason: count for reason, count in self._kept_by.most_common() if count},
            error=self._error,
        )


@contextmanager
def tallied(what: str) -> Iterator[Tally]:
    """For what is done about one kind of thing. What goes wrong in the block ends the block and nothing else: it
    is said by the tally and in the journal."""
    tally = Tally(what)
    try:
        yield tally
    except (OSError, FusemldError) as error:
        tally.fail(str(error))
    except Exception as error:
        log.exception("retention.broken", what=what)
        tally.fail(f"an error of fusemld's own: {error!r}")
