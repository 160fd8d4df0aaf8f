"""What went and what stays of one kind of thing, and why."""

from __future__ import annotations

from collections import Counter

from fusemld.api.views import UpkeepPart


class Tally:
    def __init__(self, what: str) -> None:
        self._what = what
        self._removed = 0
        self._removed_bytes = 0
        self._kept_bytes = 0
        self._kept_by: Counter[str] = Counter()

    def remove(self, size_bytes: int = 0, count: int = 1) -> None:
        self._removed += count
        self._removed_bytes += size_bytes

    def keep(self, reason: str, size_bytes: int = 0, count: int = 1) -> None:
        """`reason` completes "is kept because it is ..."."""
        self._kept_by[reason] += count
        self._kept_bytes += size_bytes

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
        )
