from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemld.executors.masking import Masker, needles

SMALL = st.binary(min_size=1, max_size=4).map(lambda data: bytes(97 + byte % 3 for byte in data))


def mask(secrets: list[bytes], pieces: list[bytes]) -> bytes:
    masker = Masker(needles(secrets))
    return b"".join(map(masker.feed, pieces)) + masker.finish()


@given(st.lists(SMALL, min_size=1, max_size=3), st.lists(SMALL, max_size=12))
def test_the_pieces_in_which_a_stream_arrives_make_no_difference(
    secrets: list[bytes], pieces: list[bytes]
) -> None:
    assert mask(secrets, pieces) == mask(secrets, [b"".join(pieces)])


@given(st.lists(SMALL, min_size=1, max_size=3), st.lists(SMALL, max_size=12))
def test_no_secret_is_left_and_nothing_else_is_taken(secrets: list[bytes], pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    covered = [False] * len(data)
    for needle in needles(secrets):
        for start in range(len(data)):
            if data.startswith(needle, start):
                covered[start : start + len(needle)] = [True] * len(needle)

    shown = mask(secrets, pieces)

    assert shown.replace(b"***", b"") == bytes(b for b, hidden in zip(data, covered, strict=True) if not hidden)


def test_a_secret_in_two_pieces_is_masked() -> None:
    assert mask([b"geheim"], [b"the word is geh", b"eim, really"]) == b"the word is ***, really"


def test_the_lines_of_a_secret_are_masked_one_by_one() -> None:
    key = b"-----BEGIN-----\nabcdefgh\n-----END-----\n"

    assert mask([key], [b"first: abcdefgh\n"]) == b"first: ***\n"


def test_short_lines_of_a_secret_stay() -> None:
    assert mask([b'{\n"password": "x"\n}'], [b"{ nothing }"]) == b"{ nothing }"


@pytest.mark.parametrize("before", [b"", b"u", b"us", b"user:"])
def test_a_secret_is_masked_in_base64_whatever_stands_before_it(before: bytes) -> None:
    encoded = base64.b64encode(before + b"correct horse")

    shown = mask([b"correct horse"], [encoded[:9], encoded[9:]])

    assert b"***" in shown
    assert len(shown) < len(encoded) - 8


def test_a_secret_is_masked_as_part_of_an_url() -> None:
    assert mask([b"p@ss/word"], [b"http://user:p%40ss%2Fword@host"]) == b"http://user:***@host"


def test_without_secrets_the_stream_passes_untouched() -> None:
    data = b"anything"

    assert Masker(needles([b"", b"\n"])).feed(data) is data


@pytest.mark.parametrize("show", [json.dumps, repr, urllib.parse.quote])
def test_a_secret_is_masked_as_common_libraries_write_it(show: Callable[[str], str]) -> None:
    secret = "a\"b'c\\d/é\n"

    shown = mask([secret.encode()], [show(secret).encode()])

    assert b"***" in shown
    assert b"b" not in shown
