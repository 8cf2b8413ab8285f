"""Whether a device may believe a release: the vectors, and the order of the steps."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from shared.errors import EdbError, FormatError, VerificationError
from shared.release.document import assemble, encode_claims
from shared.release.verifying import Expectation, Verdict, verify_release, verify_signature

FOLDER = Path(__file__).parents[2] / "vectors" / "release"
VECTORS = json.loads((FOLDER / "release.json").read_text())


def load_generator():
    spec = importlib.util.spec_from_file_location("release_vectors", FOLDER / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = load_generator()
BASE = generate.base_release()
COSE = generate.signed(BASE)
PINNED = [generate.release_key().public_key()]
EXPECTED = Expectation(
    audience=BASE.audience,
    device_id=BASE.device_id,
    fingerprint=BASE.fingerprint,
    at=datetime.fromtimestamp(generate.NOW, UTC),
    last_sequence=0,
    last_digest=None,
    floors={},
)


def answer(cose, wrapped, keys, expected):
    try:
        return verify_release(cose, wrapped, keys, expected)[0].value
    except EdbError as error:
        return error.code


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_the_vectors_are_answered_as_they_say(case):
    known = case["expected"]
    expected = Expectation(
        audience=known["audience"],
        device_id=known["device_id"],
        fingerprint=bytes.fromhex(known["fingerprint"]),
        at=datetime.fromisoformat(known["at"]),
        last_sequence=known["last_sequence"],
        last_digest=bytes.fromhex(known["last_digest"]) if known["last_digest"] else None,
        floors=known["floors"],
    )
    wrapped = {name: bytes.fromhex(value) for name, value in case["wrapped"].items()}
    keys = [load_pem_public_key(pem.encode()) for pem in VECTORS["release_keys"]]
    assert answer(bytes.fromhex(case["cose"]), wrapped, keys, expected) == case["result"]


def test_a_verified_release_is_returned():
    assert verify_release(COSE, generate.WRAPPED, PINNED, EXPECTED) == (Verdict.NEW, BASE)


def test_any_of_the_pinned_keys_may_have_signed_whatever_the_kid_says():
    others = [ec.generate_private_key(ec.SECP256R1()).public_key() for _ in range(2)]
    assert verify_signature(COSE, [*others, *PINNED], where="release") == BASE
    for keys in (others, []):
        with pytest.raises(VerificationError, match="no pinned release key"):
            verify_signature(COSE, keys, where="release")


def test_a_pinned_key_on_another_curve_verifies_nothing():
    with pytest.raises(VerificationError) as caught:
        verify_signature(COSE, [ec.generate_private_key(ec.SECP384R1()).public_key()], where="release")
    assert caught.value.code == "signature_invalid"


def test_unsigned_claims_are_not_interpreted():
    # Claims that would be refused as malformed are not even looked at without a signature.
    unsigned = assemble(b"\xff not CBOR", kid="k", signature=bytes(64))
    with pytest.raises(VerificationError) as caught:
        verify_signature(unsigned, PINNED, where="release")
    assert caught.value.code == "signature_invalid"
    with pytest.raises(FormatError):
        verify_signature(generate.signed_claims(b"\xff not CBOR"), PINNED, where="release")


def test_the_steps_are_taken_in_order():
    """Everything is wrong at first; mending one thing after the other shows the next step's code."""
    wrong = Expectation(
        audience="fleet-b",
        device_id="edge-02",
        fingerprint=bytes(32),
        at=datetime.fromtimestamp(generate.EXPIRES_AT, UTC),
        last_sequence=BASE.sequence,
        last_digest=None,
        floors={generate.APP: 9},
    )
    forged = generate.signed(BASE, generate.release_key("another"))
    mended = [
        {},
        {"audience": BASE.audience},
        {"device_id": BASE.device_id},
        {"fingerprint": BASE.fingerprint},
        {"last_sequence": BASE.sequence - 1},
        {"floors": {}},
        {"at": EXPECTED.at},
    ]
    seen = [answer(forged, {}, PINNED, wrong)]
    for change in mended:
        wrong = dataclasses.replace(wrong, **change)
        seen.append(answer(COSE, {}, PINNED, wrong))
    assert seen == [
        "signature_invalid",
        "wrong_device",
        "wrong_device",
        "key_mismatch",
        "replay",
        "rollback",
        "expired",
        "signature_invalid",
    ]
    assert answer(COSE, generate.WRAPPED, PINNED, wrong) == "new"


def test_the_release_applied_last_stays_a_no_op_when_it_has_expired():
    again = dataclasses.replace(
        EXPECTED,
        at=datetime.fromtimestamp(generate.EXPIRES_AT + 1, UTC),
        last_sequence=BASE.sequence,
        last_digest=hashlib.sha256(COSE).digest(),
    )
    assert verify_release(COSE, {}, PINNED, again) == (Verdict.ALREADY_APPLIED, BASE)


def test_the_other_signature_of_the_same_claims_is_a_replay():
    # ECDSA signatures come in pairs (r, s) and (r, n - s): both verify, and only one was applied.
    s = generate.P256_ORDER - int.from_bytes(COSE[-32:], "big")
    twin = COSE[:-32] + s.to_bytes(32, "big")
    assert verify_signature(twin, PINNED, where="release") == BASE
    again = dataclasses.replace(
        EXPECTED, last_sequence=BASE.sequence, last_digest=hashlib.sha256(COSE).digest()
    )
    assert answer(twin, generate.WRAPPED, PINNED, again) == "replay"


@pytest.mark.parametrize(
    "signature", [bytes(64), b"\xff" * 64, bytes(32) + b"\x01" * 32, b"\x01" * 32 + bytes(32)]
)
def test_degenerate_signatures_are_invalid_and_raise_nothing_else(signature):
    cose = assemble(encode_claims(BASE), kid=generate.KID, signature=signature)
    assert answer(cose, generate.WRAPPED, PINNED, EXPECTED) == "signature_invalid"
