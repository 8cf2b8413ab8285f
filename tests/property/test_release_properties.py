"""Releases: what holds for any release and for any bytes."""

from __future__ import annotations

import dataclasses
import hashlib
from datetime import UTC, datetime

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.encoding import decode_cbor, encode_cbor
from shared.errors import EdbError, FormatError, VerificationError
from shared.release.document import (
    MAX_TIME,
    Release,
    ReleasedKey,
    assemble,
    encode_claims,
    parse_claims,
    parse_release,
    to_be_signed,
)
from shared.release.verifying import Expectation, Verdict, verify_release, verify_signature
from shared.types import Audience, DeviceId, Fingerprint, KeyName, WrapAlgorithm

SIGNER = ec.derive_private_key(4711, ec.SECP256R1())
PINNED = [SIGNER.public_key()]
NOW = 1_790_000_000

digests = st.binary(min_size=32, max_size=32)
times = st.integers(0, MAX_TIME)
versions = st.integers(1, 2**32 - 1)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True).map(KeyName)
released_keys = st.builds(
    ReleasedKey,
    version=versions,
    algorithm=st.sampled_from(WrapAlgorithm),
    not_after=times,
    wrapped_sha256=digests,
)
releases = st.builds(
    Release,
    device_id=st.from_regex(r"[A-Za-z0-9:._-]{1,128}(/[A-Za-z0-9:._-]{1,128})?", fullmatch=True).map(
        DeviceId
    ),
    audience=st.from_regex(r"[\x21-\x7e]{1,64}", fullmatch=True).map(Audience),
    issued_at=times,
    expires_at=times,
    sequence=st.integers(0, 2**64 - 1),
    fingerprint=digests.map(Fingerprint),
    keys=st.dictionaries(names, released_keys, max_size=6),
    floors=st.dictionaries(names, versions, max_size=6),
    policy_sha256=digests,
)
cbor_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.binary(max_size=40)
    | st.text(max_size=20)
    | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.integers(-70010, 10) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


def signed(release, kid="k/1"):
    claims = encode_claims(release)
    r, s = decode_dss_signature(SIGNER.sign(to_be_signed(claims, kid=kid), ec.ECDSA(hashes.SHA256())))
    return assemble(claims, kid=kid, signature=r.to_bytes(32, "big") + s.to_bytes(32, "big"))


def own(release, **changes):
    """Return what the device that the release is for knows before it arrives."""
    expectation = Expectation(
        audience=release.audience,
        device_id=release.device_id,
        fingerprint=release.fingerprint,
        at=datetime.fromtimestamp(NOW, UTC),
        last_sequence=0,
        last_digest=None,
        floors={},
    )
    return dataclasses.replace(expectation, **changes)


@given(release=releases, kid=st.text(min_size=1, max_size=100).filter(lambda kid: len(kid.encode()) <= 512))
def test_a_signed_release_comes_back_and_its_encoding_is_the_only_one(release, kid):
    cose = signed(release, kid)
    parsed = parse_release(cose, where="release")
    assert (parsed.release, parsed.kid) == (release, kid)
    assert encode_claims(parsed.release) == parsed.claims
    assert assemble(parsed.claims, kid=parsed.kid, signature=parsed.signature) == cose
    assert verify_signature(cose, PINNED, where="release") == release


@given(release=releases, position=st.integers(0), bit=st.integers(0, 7))
def test_no_turned_bit_leaves_a_release_verifiable(release, position, bit):
    cose = bytearray(signed(release))
    cose[position % len(cose)] ^= 1 << bit
    try:
        verify_signature(bytes(cose), PINNED, where="release")
    except (FormatError, VerificationError):
        return
    raise AssertionError("a changed release was verified")


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=200), cbor_values.map(encode_cbor)))
def test_any_bytes_are_a_release_or_a_format_error(data):
    for parse in (parse_release, parse_claims, decode_cbor):
        try:
            parse(data, where="release")
        except FormatError as error:
            assert len(str(error)) < 1000  # noqa: PT017 - a parser may as well accept


@given(
    release=releases,
    label=st.sampled_from([2, 3, 4, 6, 7, -70000, -70001, -70002, -70003]),
    value=cbor_values,
)
def test_a_claim_of_any_value_is_kept_exactly_or_refused(release, label, value):
    claims = {**decode_cbor(encode_claims(release), where="claims"), label: value}
    try:
        parsed = parse_claims(encode_cbor(claims), where="release")
    except FormatError:
        return
    assert encode_claims(parsed) == encode_cbor(claims)


@given(release=releases, last=st.integers(0, 2**64 - 1), digest=st.none() | digests)
def test_nothing_but_a_greater_sequence_is_ever_new(release, last, digest):
    expected = own(release, last_sequence=last, last_digest=digest)
    try:
        verdict, _ = verify_release(signed(release), {}, PINNED, expected)
    except EdbError:
        return
    assert verdict is Verdict.NEW
    assert release.sequence > last


@given(release=releases)
def test_what_was_applied_last_is_always_a_no_op(release):
    cose = signed(release)
    expected = own(release, last_sequence=release.sequence, last_digest=hashlib.sha256(cose).digest())
    assert verify_release(cose, {}, PINNED, expected) == (Verdict.ALREADY_APPLIED, release)


@given(
    release=releases,
    wrapped=st.dictionaries(names, st.binary(max_size=64), min_size=1, max_size=4),
    stored=st.dictionaries(names, versions, max_size=4),
    extra=st.dictionaries(names, st.binary(max_size=8), max_size=1),
)
def test_what_is_new_holds_exactly_the_signed_keys_above_every_floor(release, wrapped, stored, extra):
    keys = {
        name: ReleasedKey(
            version=len(value) + 1,
            algorithm=WrapAlgorithm.RSA_OAEP_256,
            not_after=NOW + len(name) - 5,
            wrapped_sha256=hashlib.sha256(value).digest(),
        )
        for name, value in wrapped.items()
    }
    release = dataclasses.replace(release, keys=keys, sequence=max(release.sequence, 1))
    offered = {**wrapped, **extra}
    holds = (
        offered == wrapped
        and release.expires_at > NOW
        and all(
            key.version >= max(stored.get(name, 0), release.floors.get(name, 0)) and key.not_after > NOW
            for name, key in keys.items()
        )
    )
    try:
        verify_release(signed(release), offered, PINNED, own(release, floors=stored))
    except VerificationError:
        accepted = False
    else:
        accepted = True
    assert accepted is holds
