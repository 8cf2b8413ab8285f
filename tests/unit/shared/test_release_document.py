"""Release documents: what is written, and what is refused when it is read."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
from pathlib import Path

import cbor2
import pytest

from shared.encoding import decode_cbor, encode_cbor
from shared.errors import FormatError
from shared.release.document import (
    MAX_RELEASE_BYTES,
    MAX_TIME,
    assemble,
    encode_claims,
    parse_claims,
    parse_release,
    parse_sign1,
    to_be_signed,
)
from shared.types import WrapAlgorithm

FOLDER = Path(__file__).parents[2] / "vectors" / "release"


def load_generator():
    spec = importlib.util.spec_from_file_location("release_vectors", FOLDER / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = load_generator()
BASE = generate.base_release()
CLAIMS = decode_cbor(encode_claims(BASE), where="claims")
APP = generate.APP


def refused(claims):
    with pytest.raises(FormatError) as caught:
        parse_claims(encode_cbor(claims), where="release")
    assert str(caught.value).startswith("release: ") or caught.value.code == "unsupported_algorithm"
    return caught.value.code


def test_the_vectors_are_what_their_script_writes():
    assert json.loads((FOLDER / "release.json").read_text()) == generate.release_document()
    assert json.loads((FOLDER / "kcv.json").read_text()) == {"cases": generate.kcv_cases()}


def test_a_release_comes_back_as_it_was_written():
    signature = bytes(range(64))
    signed = parse_release(assemble(encode_claims(BASE), kid="k/1", signature=signature), where="release")
    assert signed.release == BASE
    assert (signed.kid, signed.claims, signed.signature) == ("k/1", encode_claims(BASE), signature)


def test_the_claims_are_those_of_the_protocol():
    assert set(CLAIMS) == {2, 3, 4, 6, 7, -70000, -70001, -70002, -70003}
    assert CLAIMS[7] == generate.SEQUENCE.to_bytes(8, "big")
    assert CLAIMS[-70001][APP] == [
        3,
        -41,
        generate.EXPIRES_AT,
        hashlib.sha256(generate.WRAPPED[APP]).digest(),
    ]
    assert CLAIMS[-70002] == {APP: 2}


def test_what_is_signed_is_the_sig_structure_of_rfc_9052():
    assert decode_cbor(to_be_signed(b"claims", kid="k"), where="structure") == [
        "Signature1",
        bytes.fromhex("a201260441") + b"k",
        b"",
        b"claims",
    ]


def test_the_document_is_tag_18_over_four_parts_with_an_empty_unprotected_header():
    cose = assemble(b"claims", kid="k", signature=bytes(64))
    assert cose.hex() == "d28446a2012604416b" + "a0" + "46" + b"claims".hex() + "5840" + "00" * 64


@pytest.mark.parametrize("length", [0, 63, 65, 72])
def test_a_signature_of_another_length_is_not_assembled(length):
    with pytest.raises(FormatError, match=f"found {length}"):
        assemble(b"claims", kid="k", signature=bytes(length))


def test_a_release_longer_than_a_device_reads_is_neither_written_nor_read():
    with pytest.raises(FormatError, match="more than the 65536"):
        assemble(bytes(MAX_RELEASE_BYTES), kid="k", signature=bytes(64))
    with pytest.raises(FormatError, match="at most 65536 bytes"):
        parse_release(bytes(MAX_RELEASE_BYTES + 1), where="release")


@pytest.mark.parametrize("label", sorted(CLAIMS))
@pytest.mark.parametrize(
    "value", [None, True, 1.5, "text", b"octets", [], {}, -1, 2**64, cbor2.CBORTag(99, 1)]
)
def test_no_claim_takes_a_value_of_another_type(label, value):
    right = {2: str, 3: str, -70001: dict, -70002: dict}.get(label)
    if type(value) is right and value != "":
        assert parse_claims(encode_cbor({**CLAIMS, label: value}), where="release")
    else:
        assert refused({**CLAIMS, label: value}) == "malformed"


@pytest.mark.parametrize("label", sorted(CLAIMS))
def test_every_claim_is_needed(label):
    assert refused({key: value for key, value in CLAIMS.items() if key != label}) == "malformed"


@pytest.mark.parametrize("label", [1, 5, 8, -1, -69999, -70004, "2", b"", False, None])
def test_no_other_claim_is_taken(label):
    assert refused({**CLAIMS, label: 1}) == "malformed"


@pytest.mark.parametrize("claims", [[], 1, "text", None, {}, {"sub": "edge-01"}])
def test_claims_that_are_no_such_map_are_refused(claims):
    assert refused(claims) == "malformed"


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ([1, -41, 5], "malformed"),
        ([1, -41, 5, bytes(32), 0], "malformed"),
        ([0, -41, 5, bytes(32)], "malformed"),
        ([2**32, -41, 5, bytes(32)], "malformed"),
        ([True, -41, 5, bytes(32)], "malformed"),
        ([1, "RSA-OAEP-256", 5, bytes(32)], "malformed"),
        ([1, -65540, 5, bytes(32)], "unsupported_algorithm"),
        ([1, -41, -5, bytes(32)], "malformed"),
        ([1, -41, MAX_TIME + 1, bytes(32)], "malformed"),
        ([1, -41, 5, bytes(31)], "malformed"),
        ({"version": 1}, "malformed"),
    ],
)
def test_a_released_key_is_exactly_four_values_in_their_ranges(entry, code):
    assert refused({**CLAIMS, -70001: {APP: entry}}) == code


@pytest.mark.parametrize("name", ["", "a.b", "../x", "x" * 65, 1, b"app", None])
@pytest.mark.parametrize("label", [-70001, -70002])
def test_names_are_key_names(label, name):
    value = [1, -41, 5, bytes(32)] if label == -70001 else 1
    assert refused({**CLAIMS, label: {name: value}}) == "name_invalid"


@pytest.mark.parametrize("algorithm", list(WrapAlgorithm))
def test_every_algorithm_travels(algorithm):
    key = dataclasses.replace(BASE.keys[APP], algorithm=algorithm)
    release = dataclasses.replace(BASE, keys={APP: key})
    assert parse_claims(encode_claims(release), where="release") == release


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b"", {}, b""],
        [b"", {}, b"", bytes(64), 0],
        [{1: -7, 4: b"k"}, {}, b"", bytes(64)],
        [encode_cbor({1: -7, 4: b"k"}), [], b"", bytes(64)],
        [encode_cbor({1: -7, 4: b"k"}), {99: 1}, b"", bytes(64)],
        [encode_cbor({1: -7, 4: b"k"}), {}, None, bytes(64)],
        [encode_cbor({1: -7, 4: b"k"}), {}, "text", bytes(64)],
        [encode_cbor({1: -7, 4: b"k"}), {}, b"", bytes(63)],
        [encode_cbor({1: -7, 4: b""}), {}, b"", bytes(64)],
        [encode_cbor({1: -7, 4: b"\xff"}), {}, b"", bytes(64)],
        [encode_cbor({1: -7, 4: "k"}), {}, b"", bytes(64)],
        [encode_cbor({1: -7, 4: b"k" * 513}), {}, b"", bytes(64)],
        [encode_cbor({1: -7.0, 4: b"k"}), {}, b"", bytes(64)],
        [encode_cbor({True: -7, 4: b"k"}), {}, b"", bytes(64)],
        [encode_cbor([1, -7, 4, b"k"]), {}, b"", bytes(64)],
        [b"", {}, b"", bytes(64)],
        [b"\xa2\x04\x41k\x01\x26", {}, b"", bytes(64)],
    ],
)
def test_another_cose_profile_is_refused(parts):
    with pytest.raises(FormatError, match=r"^release: "):
        parse_sign1(encode_cbor(cbor2.CBORTag(18, parts)), where="release")
