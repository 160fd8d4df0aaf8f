from __future__ import annotations

import base64

import pytest

from fusemld.daemon.mask import Mask


@pytest.mark.parametrize(
    "shown",
    [
        "hunter22",
        "--password=hunter22 --verbose",
        "aHVudGVyMjI=",
        f"Basic {base64.b64encode(b'ann:hunter22').decode()}",
        "-----KEY-----",
        "hunter2\udcff",
    ],
)
def test_a_secret_is_hidden_in_all_its_usual_forms(shown: str) -> None:
    mask = Mask(["hunter22", "-----KEY-----\nabcdef\n", "hunter2\udcff"])

    assert "***" in mask(shown)
    assert mask.hides(shown)
    assert not mask.hides(mask(shown))


def test_what_is_learnt_later_is_hidden_from_then_on() -> None:
    mask = Mask()
    before = mask("token tok-123456")

    mask.add(["tok-123456", ""])

    assert before == "token tok-123456"
    assert mask("token tok-123456") == "token ***"
    assert mask("plain text \udcff é") == "plain text \udcff é"


def test_text_that_no_bytes_stand_for_is_masked_all_the_same() -> None:
    assert Mask(["s3cret"])("half a pair \ud83d and s3cret") == "half a pair ? and ***"
