"""How many requests one API server is asked to work on at once: additive increase, multiplicative decrease."""

from __future__ import annotations

UNSAID_S = 1.0
"""The pause after a refusal that says nothing about one (RFC 9110 leaves it to the client)."""
SHORTEST_S = 0.1
"""No pause is shorter: one who is refused at once, with `Retry-After: 0`, would ask again as fast as it can."""
LONGEST_S = 60.0
"""No pause is longer: the server's load is looked at again."""


class Pace:
    """Every answer moves `limit`: up by one after a whole round of successes, halved by a refusal.

    Pure: `now` (seconds, monotonic) comes in. Refusals of requests that had started before the last decrease count
    once, because they tell of the same overload. After a refusal nobody starts before the server's `Retry-After`,
    within `SHORTEST_S` and `LONGEST_S`.
    """

    def __init__(self, most: int) -> None:
        self.most = max(most, 1)
        self.limit = float(self.most)
        self.under_way = 0
        self.resumes_at = 0.0
        self._decreased_at = float("-inf")

    def wait_s(self, now: float) -> float | None:
        """Seconds until a request may start, 0 for at once; None: not before another one ends."""
        if now < self.resumes_at:
            return self.resumes_at - now
        return 0.0 if self.under_way < int(self.limit) else None

    def started(self) -> None:
        self.under_way += 1

    def ended(self) -> None:
        """To be called for every request that started, whatever became of it."""
        self.under_way -= 1

    def served(self) -> None:
        self.limit = min(self.limit + 1.0 / self.limit, float(self.most))

    def refused(self, *, started_at: float, now: float, retry_after_s: float | None) -> None:
        """The server said that it has too much to do (429, or 503 with `Retry-After`)."""
        pause_s = UNSAID_S if retry_after_s is None else min(max(retry_after_s, SHORTEST_S), LONGEST_S)
        self.resumes_at = max(self.resumes_at, now + pause_s)
        if started_at > self._decreased_at:
            self.limit = max(self.limit / 2.0, 1.0)
            self._decreased_at = now
