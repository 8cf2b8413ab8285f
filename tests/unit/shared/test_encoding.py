"""Base64 as the contracts want it, and deterministic CBOR."""

from __future__ import annotations

import base64
import re

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.encoding import decode_base64, decode_cbor, encode_base64, encode_cbor
from shared.errors import FormatError


def test_base64_is_written_padded_on_one_line():
    assert encode_base64(b"\xff" * 100) == "/" * 133 + "w=="


@pytest.mark.parametrize("text", ["/+8=", "/+8", " /+\n8=\r\n", "/ + 8"])
def test_white_space_and_missing_padding_are_tolerated(text):
    assert decode_base64(text, where="here") == b"\xff\xef"


def test_url_safe_base64_is_named_as_what_it_is():
    with pytest.raises(FormatError, match=r"^here: expected standard base64, found URL-safe base64$"):
        decode_base64("_-8=", where="here")


@pytest.mark.parametrize(
    "text", ["é", "AA=A", "====", "Z0+0===", "AAA====", "A", "AAAAA", "A*==", None, b"AA==", 7]
)
def test_other_text_is_no_base64(text):
    with pytest.raises(FormatError, match=r"^here: "):
        decode_base64(text, where="here")


@given(st.text(alphabet="AZaz09+/== \n-_é", max_size=12))
def test_base64_is_what_is_left_without_white_space_and_padding(text):
    packed = "".join(text.split())
    digits = packed.rstrip("=")
    is_base64 = re.fullmatch(r"[A-Za-z0-9+/]*={0,2}", packed) and len(digits) % 4 != 1
    try:
        found = decode_base64(text, where="here")
    except FormatError:
        found = None
    assert found == (base64.b64decode(digits + "=" * (-len(digits) % 4)) if is_base64 else None)


def test_cbor_is_written_with_sorted_keys_and_shortest_forms():
    assert encode_cbor({-70000: b"", 7: 1, 2: [True]}).hex() == "a30281f507013a0001116f40"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("", "empty"),
        ("1800", "an integer longer than it need be"),
        ("9f00ff", "an indefinite length"),
        ("a202000100", "keys out of order"),
        ("a201000100", "a key twice"),
        ("0000", "a second item"),
        ("fa3f800000", "a float longer than it need be"),
        ("fb7ff8000000000000", "a long NaN"),
        ("8200", "cut off"),
        ("bbffffffffffffffff", "more pairs than could be there"),
        ("5b7fffffffffffffff", "more bytes than could be there"),
        ("d81c81d81d00", "a list that holds itself"),
        ("d8236128", "a broken regular expression"),
        ("c4821b7fffffffffffffff01", "a decimal fraction out of range"),
        ("c5821a7fffffff01", "a bigfloat out of range"),
        ("ff", "a break outside of anything"),
    ],
)
def test_what_is_not_one_deterministic_item_is_refused(data, why):
    with pytest.raises(FormatError, match=r"^here: "):
        decode_cbor(bytes.fromhex(data), where="here")


def test_deep_nesting_is_refused_and_not_followed():
    with pytest.raises(FormatError):
        decode_cbor(b"\x81" * 60_000 + b"\x00", where="here")


def test_a_decoded_item_is_what_was_encoded():
    value = {1: -7, 4: b"kid", 5: {"a": [1, 2**64 - 1, "text", None]}}
    assert decode_cbor(cbor2.dumps(value, canonical=True), where="here") == value
