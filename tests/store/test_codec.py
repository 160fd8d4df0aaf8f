from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemld.model.run import Ending, Outcome
from fusemld.store.codec import Decoder, encode, from_bytes, to_bytes, to_text
from fusemld.store.errors import StoreError

decode = Decoder(Outcome)
any_text = st.binary().map(lambda data: data.decode("utf-8", "surrogateescape"))


@given(any_text, st.sampled_from(Ending))
def test_text_of_any_bytes_survives_in_structs(text: str, ending: Ending) -> None:
    outcome = Outcome(ending=ending, message=text, tail=text)

    encoded = encode(outcome)

    assert decode(encoded) == outcome
    assert encoded.encode().decode() == encoded


@given(st.binary())
def test_outputs_keep_their_bytes(data: bytes) -> None:
    assert to_bytes(from_bytes(data)) == data


@given(any_text)
def test_what_people_read_is_valid_text(text: str) -> None:
    assert to_text(text).encode().decode() == to_text(text)


@pytest.mark.parametrize("damaged", ["{", '{"ending": "unheard of"}', "[]", '{"ending":"lost","tail":"\\udc80"'])
def test_damaged_text_is_an_error_of_the_store(damaged: str) -> None:
    with pytest.raises(StoreError, match="cannot read an entry of the database"):
        decode(damaged)
