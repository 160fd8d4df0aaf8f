from __future__ import annotations

import pytest

from fusemld.daemon.ends import Ends
from fusemld.model.errors import UnavailableError


def test_each_reader_goes_on_from_where_it_was() -> None:
    ends = Ends(kept=4)
    ends.add("a")
    one = ends.count
    for run in ("b", "c", "b"):
        ends.add(run)

    assert ends.since(0) == ("a", "b", "c")
    assert ends.since(one) == ("b", "c")
    assert ends.since(ends.count) == ()


def test_only_the_last_are_kept_and_who_needs_more_is_told() -> None:
    ends = Ends(kept=2)
    for run in ("a", "b", "c"):
        ends.add(run)

    assert ends.since(1) == ("b", "c")
    with pytest.raises(UnavailableError, match="3 have since the reader last asked, and only the last 2 are kept"):
        ends.since(0)
