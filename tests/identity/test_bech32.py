import json
from pathlib import Path

import bech32 as reference
import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity import bech32

BIP173 = json.loads((Path(__file__).parent / "vectors" / "bip173.json").read_bytes())


@given(st.binary(max_size=600))
def test_there_and_back(data: bytes) -> None:
    text = bech32.encode("npub", data)
    assert bech32.decode(text) == bech32.decode(text.upper()) == ("npub", data)


@given(st.binary(max_size=45))
def test_agrees_with_the_reference_package(data: bytes) -> None:
    assert bech32.encode("note", data) == reference.bech32_encode("note", reference.convertbits(data, 8, 5))


@pytest.mark.parametrize("text", BIP173["valid"] + BIP173["invalid_for_length_only"])
def test_valid_texts_of_bip173(text: str) -> None:
    assert bech32.decode(text)[0] == text.lower().rpartition("1")[0]


@pytest.mark.parametrize("text", BIP173["invalid"], ids=ascii)
def test_invalid_texts_of_bip173(text: str) -> None:
    with pytest.raises(ValueError, match="it"):
        bech32.decode(text)


@pytest.mark.parametrize("digits", [[0], [0, 0, 0], [0] * 6, [31, 31], [0, 1]], ids=str)
def test_digits_that_are_no_whole_bytes_are_refused(digits: list[int]) -> None:
    with pytest.raises(ValueError, match=r"last letter|whole byte"):
        bech32.decode(reference.bech32_encode("x", digits))


def test_mixed_case_is_refused() -> None:
    text = bech32.encode("npub", b"data")
    with pytest.raises(ValueError, match="mixes"):
        bech32.decode("N" + text[1:])


@given(st.binary(max_size=40), st.data())
def test_one_wrong_letter_is_noticed(data: bytes, draw: st.DataObject) -> None:
    text = bech32.encode("nsec", data)
    at = draw.draw(st.integers(5, len(text) - 1))
    other = draw.draw(st.sampled_from([d for d in "qpzry9x8gf2tvdw0s3jn54khce6mua7l" if d != text[at]]))
    with pytest.raises(ValueError, match="checksum"):
        bech32.decode(text[:at] + other + text[at + 1 :])
