from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemld.executors import outputs

PIECES = st.sampled_from(
    [b"a", b"\n", b"\r", "ü".encode(), "€".encode(), "😀".encode(), b"\xff", b"\xe2\x82", b"\xf0"]
)


@given(st.lists(PIECES, max_size=30).map(b"".join), st.integers(1, 5))
def test_what_is_read_in_parts_is_what_is_read_at_once(value: bytes, part: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs, "_AT_ONCE_BYTES", part)
        text = outputs.text(value)

    assert text == value.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
    assert text.encode("utf-8", "surrogateescape") == value.rstrip(b"\r\n")
