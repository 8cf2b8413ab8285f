"""PKCS#11 URIs: what is read, and that no PIN stands in one."""

import re

import pytest

from shared.errors import FormatError
from shared.pkcs11_uri import Pkcs11Uri


def test_a_uri_names_token_key_library_and_pin_file():
    uri = Pkcs11Uri.parse(
        "pkcs11:token=My%20token;serial=12ab;slot-id=3;object=sign%3B1;id=%01%ff;type=private"
        "?module-path=/usr/lib/p11.so&pin-source=file:/run/pin",
        where="--key",
    )

    assert uri == Pkcs11Uri(
        token="My token",
        serial="12ab",
        slot_id=3,
        label="sign;1",
        key_id=b"\x01\xff",
        module="/usr/lib/p11.so",
        pin_file="/run/pin",
    )


def test_a_label_or_an_id_is_enough():
    assert Pkcs11Uri.parse("pkcs11:object=a", where="--key").label == "a"
    assert Pkcs11Uri.parse("pkcs11:id=%02", where="--key").key_id == b"\x02"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pkcs11:", "expected pkcs11:token=LABEL;object=LABEL"),
        ("pkcs11:token=t", "expected pkcs11:token=LABEL;object=LABEL"),
        ("pkcs12:object=o", "expected pkcs11:token=LABEL;object=LABEL"),
        ("pkcs11:object=o;type=public", "type: expected private"),
        ("pkcs11:object=o;slot-id=x", "slot-id: expected a number"),
        ("pkcs11:object=o;slot-id=٣", "slot-id: expected a number"),
        ("pkcs11:object=o;object=p", "'object': expected each of"),
        ("pkcs11:object=o;colour=red", "'colour': expected each of"),
        ("pkcs11:object=%zz", "'object': expected each of"),
        ("pkcs11:object=o;", "'': expected each of"),
        ("pkcs11:object=o?module-name=x", "'module-name': expected each of"),
    ],
)
def test_what_names_no_key_is_told_as_such(text, message):
    with pytest.raises(FormatError, match=f"^--key: .*{re.escape(message)}"):
        Pkcs11Uri.parse(text, where="--key")


@pytest.mark.parametrize("text", ["pkcs11:object=o?pin-value=8642", "pkcs11:object=o;pin-value=8642"])
def test_a_pin_on_the_command_line_is_refused_and_not_repeated(text):
    with pytest.raises(FormatError, match="expected no PIN on the command line") as caught:
        Pkcs11Uri.parse(text, where="--key")
    assert "8642" not in str(caught.value)
