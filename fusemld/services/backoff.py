"""How long to wait before a service that died is started again."""

from __future__ import annotations

import msgspec

from fusemld.model.backoff import backoff_s


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """The n-th start in a row that went wrong is followed by `initial_s * 2**n`, at most `maximum_s`.

    A service that was ready for `forgiven_after_s` has its earlier failures forgotten. It never gives up.
    """

    initial_s: float = 1.0
    maximum_s: float = 60.0
    forgiven_after_s: float = 60.0

    def delay_s(self, failures: int) -> float:
        """Seconds to wait after that many failures in a row (from 0)."""
        return backoff_s(max(failures, 0) + 1, self.initial_s, self.maximum_s)
