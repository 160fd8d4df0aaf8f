"""Which runs ended last, for any number of readers, without queues that could grow."""

from __future__ import annotations

import collections
from itertools import islice

from fusemld.model.errors import UnavailableError

KEPT = 10_000
"""About a megabyte. A reader that is further behind has missed some."""


class Ends:
    """`count` grows with every run that ends; a reader remembers what it was when it last asked."""

    def __init__(self, kept: int = KEPT) -> None:
        self.count = 0
        self._latest: collections.deque[str] = collections.deque(maxlen=kept)

    def add(self, run_id: str) -> None:
        self.count += 1
        self._latest.append(run_id)

    def since(self, count: int) -> tuple[str, ...]:
        """The runs that ended since `count` was so, each once, in the order of their first end after that. Raises
        `UnavailableError` where they are more than are kept."""
        missed = self.count - count
        if missed > len(self._latest):
            raise UnavailableError(
                f"cannot tell every run that has ended: {missed} have since the reader last asked, and only the "
                f"last {len(self._latest)} are kept"
            )
        return tuple(dict.fromkeys(islice(self._latest, len(self._latest) - missed, None)))
