"""Wrapping class keys for public keys, and unwrapping them."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from shared.errors import FormatError, VerificationError
from shared.keys.unwrapping import unwrap_key
from shared.keys.wrapping import WRAP_LABEL, WrapContext, algorithms_for, rsa_padding, wrap_key, wrapped_size
from shared.public_keys import KeyKind, load_public_key
from shared.types import Audience, KeyName, Secret, WrapAlgorithm

VECTORS = Path(__file__).parents[2] / "vectors" / "release"
CONTEXT = WrapContext(
    audience=Audience("fleet-a"), device_id="edge-01", name=KeyName("my_confidential_app"), version=3
)
HPKE = {WrapAlgorithm.HPKE_P256, WrapAlgorithm.HPKE_X25519}


@functools.cache
def private_key(kind):
    match kind:
        case KeyKind.RSA:
            return rsa.generate_private_key(65537, 2048)
        case KeyKind.P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyKind.X25519:
            return x25519.X25519PrivateKey.generate()


def public_key(kind):
    spki = private_key(kind).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return load_public_key(spki, where="test key")


PAIRS = [(kind, algorithm) for kind in KeyKind for algorithm in algorithms_for(kind)]
every_pair = pytest.mark.parametrize(("kind", "algorithm"), PAIRS)


@every_pair
@pytest.mark.parametrize("length", [16, 24, 32])
def test_a_wrapped_key_has_the_foretold_size_and_unwraps(kind, algorithm, length):
    wrapped = wrap_key(Secret(b"k" * length), public_key(kind), algorithm, context=CONTEXT)
    assert len(wrapped) == wrapped_size(public_key(kind), algorithm, length)
    assert unwrap_key(wrapped, private_key(kind), algorithm, context=CONTEXT).reveal() == b"k" * length


@pytest.mark.parametrize("case", json.loads((VECTORS / "wrapped.json").read_text())["cases"])
def test_the_vectors_unwrap(case):
    context = WrapContext(**{name: case[name] for name in ("audience", "device_id", "name", "version")})
    private = load_der_private_key(bytes.fromhex(case["private_key"]), None)
    algorithm = WrapAlgorithm(case["algorithm"])
    opened = unwrap_key(bytes.fromhex(case["wrapped"]), private, algorithm, context=context)
    assert opened.reveal().hex() == case["class_key"]


@every_pair
def test_wrapping_twice_gives_other_bytes(kind, algorithm):
    one, two = (wrap_key(Secret(b"k" * 32), public_key(kind), algorithm, context=CONTEXT) for _ in range(2))
    assert one != two


def test_the_default_for_rsa_is_oaep():
    assert algorithms_for(KeyKind.RSA)[0] is WrapAlgorithm.RSA_OAEP_256


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [(kind, each) for kind in KeyKind for each in WrapAlgorithm if each not in algorithms_for(kind)],
)
def test_an_algorithm_for_another_kind_of_key_is_unsupported(kind, algorithm):
    for attempt in (
        lambda: wrap_key(Secret(b"k" * 32), public_key(kind), algorithm, context=CONTEXT),
        lambda: wrapped_size(public_key(kind), algorithm, 32),
    ):
        with pytest.raises(FormatError) as caught:
            attempt()
        assert caught.value.code == "unsupported_algorithm"
    assert refusal(bytes(256), private_key(kind), algorithm) == refusal(b"", private_key(KeyKind.RSA))


@pytest.mark.parametrize("length", [0, 15, 31, 33, 64])
def test_only_class_keys_are_wrapped(length):
    with pytest.raises(FormatError, match=f"found {length}"):
        wrap_key(Secret(b"k" * length), public_key(KeyKind.RSA), WrapAlgorithm.RSA_OAEP_256, context=CONTEXT)


@every_pair
@pytest.mark.parametrize(
    "change",
    [{"audience": "fleet-b"}, {"device_id": "edge-02"}, {"name": "other"}, {"version": 4}],
    ids=lambda change: next(iter(change)),
)
def test_hpke_binds_the_context_and_rsa_does_not(kind, algorithm, change):
    wrapped = wrap_key(Secret(b"k" * 32), public_key(kind), algorithm, context=CONTEXT)
    other = dataclasses.replace(CONTEXT, **change)
    if algorithm in HPKE:
        assert refusal(wrapped, private_key(kind), algorithm, other)[0] == "unwrap_failed"
    else:
        assert unwrap_key(wrapped, private_key(kind), algorithm, context=other).reveal() == b"k" * 32


def refusal(wrapped, private, algorithm=WrapAlgorithm.RSA_OAEP_256, context=CONTEXT):
    """Return all that a caller can see of a failure."""
    with pytest.raises(VerificationError) as caught:
        unwrap_key(wrapped, private, algorithm, context=context)
    error = caught.value
    return error.code, str(error), error.hint, error.__cause__, error.__context__


@pytest.mark.parametrize(
    ("kind", "algorithm"), [pair for pair in PAIRS if pair[1] is not WrapAlgorithm.RSA1_5]
)
def test_every_failure_looks_the_same(kind, algorithm):
    private = private_key(kind)
    wrapped = wrap_key(Secret(b"k" * 32), public_key(kind), algorithm, context=CONTEXT)
    spoilt = [
        b"",
        b"\0",
        wrapped[:-1],
        wrapped + b"\0",
        bytes(len(wrapped)),
        b"\xff" * len(wrapped),
        bytes([wrapped[0] ^ 1]) + wrapped[1:],
        wrapped[:-1] + bytes([wrapped[-1] ^ 1]),
    ]
    seen = {refusal(each, private, algorithm) for each in spoilt}
    # A well-wrapped secret of a length that no class key has.
    if kind is KeyKind.RSA:
        seen.add(refusal(private.public_key().encrypt(b"k" * 20, rsa_padding(algorithm)), private, algorithm))
    assert seen == {("unwrap_failed", "the wrapped key does not open for this key", None, None, None)}


def test_a_spoilt_rsa1_5_block_never_gives_the_key():
    # OpenSSL answers pseudo-random bytes instead of an error, so sometimes a wrong key comes out: never the
    # right one, and never an exception of another kind.
    wrapped = wrap_key(Secret(b"k" * 32), public_key(KeyKind.RSA), WrapAlgorithm.RSA1_5, context=CONTEXT)
    codes = []
    for position in range(0, 256, 4):
        spoilt = wrapped[:position] + bytes([wrapped[position] ^ 1]) + wrapped[position + 1 :]
        try:
            opened = unwrap_key(spoilt, private_key(KeyKind.RSA), WrapAlgorithm.RSA1_5, context=CONTEXT)
        except VerificationError as error:
            codes.append(error.code)
        else:
            assert opened.reveal() != b"k" * 32
    assert len(codes) > 32
    assert set(codes) == {"unwrap_failed"}


def test_the_context_is_framed_by_lengths():
    one, two = (
        dataclasses.replace(CONTEXT, device_id=device, name=KeyName(name)).info(WRAP_LABEL)
        for device, name in (("ab", "c"), ("a", "bc"))
    )
    assert one != two
    assert CONTEXT.info(b"L\0").hex() == (
        "4c00"
        "0007"
        + b"fleet-a".hex()
        + "0007"
        + b"edge-01".hex()
        + "0013"
        + b"my_confidential_app".hex()
        + "00000003"
    )


@pytest.mark.parametrize("change", [{"version": 0}, {"version": 2**32}, {"device_id": "d" * 65536}])
def test_a_context_without_encoding_is_refused(change):
    with pytest.raises(FormatError, match="wrap context"):
        dataclasses.replace(CONTEXT, **change).info(WRAP_LABEL)
    wrapped = wrap_key(Secret(b"k" * 32), public_key(KeyKind.P256), WrapAlgorithm.HPKE_P256, context=CONTEXT)
    broken = dataclasses.replace(CONTEXT, **change)
    assert refusal(wrapped, private_key(KeyKind.P256), WrapAlgorithm.HPKE_P256, broken)[0] == "unwrap_failed"
