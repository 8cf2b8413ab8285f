"""The JWE envelope of class keys at rest."""

from __future__ import annotations

import base64
import dataclasses
import functools
import json

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwe
from joserfc.jwk import RSAKey
from joserfc.registry import HeaderParameter

from shared.errors import FormatError, VerificationError
from shared.keys.envelope import Kek, open_envelope, parse_envelope, seal_envelope
from shared.types import KeyName, Secret

NAME = KeyName("my_confidential_app")
KID = "https://vault.example/keys/class-key-kek/0123456789abcdef"
OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


@functools.cache
def kek_private():
    return rsa.generate_private_key(65537, 2048)


def kek():
    return Kek(kid=KID, public_key=kek_private().public_key())


def sealed(key=b"k" * 32, name=NAME, version=3):
    return seal_envelope(Secret(key), kek=kek(), name=name, version=version)


def cek_of(envelope):
    return Secret(kek_private().decrypt(envelope.encrypted_cek, OAEP))


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def reheaded(**changes):
    """Return an envelope whose header says something else; None takes a member away."""
    parts = sealed().split(".")
    header = json.loads(base64.urlsafe_b64decode(parts[0] + "=="))
    header = {name: value for name, value in {**header, **changes}.items() if value is not None}
    return ".".join((b64(json.dumps(header).encode()), *parts[1:]))


@pytest.mark.parametrize(
    ("length", "algorithm"), [(16, "aes-gcm-128"), (24, "aes-gcm-192"), (32, "aes-gcm-256")]
)
def test_what_was_sealed_opens_under_its_own_name_and_version(length, algorithm):
    envelope = parse_envelope(sealed(b"k" * length), where="secret")
    assert (envelope.kid, envelope.name, envelope.version, envelope.algorithm) == (KID, NAME, 3, algorithm)
    assert open_envelope(envelope, cek_of(envelope), name=NAME, version=3).reveal() == b"k" * length


def test_an_independent_jose_library_opens_it():
    pem = kek_private().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    members = {
        "cpk_name": HeaderParameter("class key", "str"),
        "cpk_ver": HeaderParameter("version", "int"),
        "cpk_alg": HeaderParameter("cipher", "str"),
    }
    registry = jwe.JWERegistry(members, algorithms=["RSA-OAEP-256", "A256GCM"])
    opened = jwe.decrypt_compact(sealed(), RSAKey.import_key(pem), registry=registry)
    assert opened.plaintext == b"k" * 32
    assert opened.headers() == {
        "alg": "RSA-OAEP-256",
        "enc": "A256GCM",
        "kid": KID,
        "cpk_name": NAME,
        "cpk_ver": 3,
        "cpk_alg": "aes-gcm-256",
    }


def test_content_keys_and_nonces_are_never_used_twice():
    first, second = (parse_envelope(sealed(), where="secret") for _ in range(2))
    assert first.iv != second.iv
    assert cek_of(first).reveal() != cek_of(second).reveal()


@pytest.mark.parametrize(("name", "version"), [(KeyName("other"), 3), (NAME, 2), (NAME, 4)])
def test_it_does_not_open_as_another_key_or_version(name, version):
    envelope = parse_envelope(sealed(), where="secret")
    with pytest.raises(VerificationError, match="expected"):
        open_envelope(envelope, cek_of(envelope), name=name, version=version)


def test_a_header_that_was_rewritten_to_the_wanted_name_does_not_open():
    moved = parse_envelope(reheaded(cpk_name="other"), where="secret")
    assert moved.name == "other"
    with pytest.raises(VerificationError, match="the tag does not hold"):
        open_envelope(moved, cek_of(moved), name=KeyName("other"), version=3)


@pytest.mark.parametrize("field", ["iv", "ciphertext", "tag", "protected"])
def test_no_part_can_be_changed(field):
    envelope = parse_envelope(sealed(), where="secret")
    value = getattr(envelope, field)
    changed = dataclasses.replace(envelope, **{field: bytes([value[0] ^ 1]) + value[1:]})
    with pytest.raises(VerificationError):
        open_envelope(changed, cek_of(envelope), name=NAME, version=3)


@pytest.mark.parametrize("cek", [b"", b"c" * 16, b"c" * 32, b"c" * 33])
def test_another_content_key_does_not_open_it(cek):
    with pytest.raises(VerificationError):
        open_envelope(parse_envelope(sealed(), where="secret"), Secret(cek), name=NAME, version=3)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"alg": "RSA-OAEP"}, "expected alg RSA-OAEP-256"),
        ({"alg": "dir"}, "expected alg RSA-OAEP-256"),
        ({"enc": "A128CBC-HS256"}, "enc A256GCM"),
        ({"zip": "DEF"}, "exactly the members"),
        ({"crit": ["x"]}, "exactly the members"),
        ({"kid": None}, "exactly the members"),
        ({"kid": ""}, "kid"),
        ({"kid": 7}, "kid"),
        ({"cpk_ver": True}, "cpk_ver"),
        ({"cpk_ver": 1.0}, "cpk_ver"),
        ({"cpk_ver": 0}, "cpk_ver"),
        ({"cpk_ver": 2**32}, "cpk_ver"),
        ({"cpk_ver": "3"}, "cpk_ver"),
        ({"cpk_alg": "aes-gcm-512"}, "cpk_alg"),
        ({"cpk_alg": ["aes-gcm-256"]}, "cpk_alg"),
        ({"cpk_alg": "aes-gcm-128"}, "lengths"),
        ({"cpk_name": "a.b"}, "key name"),
    ],
)
def test_other_headers_are_refused(changes, found):
    with pytest.raises(FormatError, match=found) as caught:
        parse_envelope(reheaded(**changes), where="secret ck-x")
    assert str(caught.value).startswith("secret ck-x: ")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda parts: parts[:4],
        lambda parts: [*parts, ""],
        lambda parts: ["", *parts[1:]],
        lambda parts: [parts[0] + "=", *parts[1:]],
        lambda parts: [b64(b"[]"), *parts[1:]],
        lambda parts: [b64(b'{"alg":1,"alg":1}'), *parts[1:]],
        lambda parts: [parts[0], b64(bytes(255)), *parts[2:]],
        lambda parts: [*parts[:2], b64(bytes(11)), *parts[3:]],
        lambda parts: [*parts[:3], b64(bytes(31)), parts[4]],
        lambda parts: [*parts[:4], b64(bytes(15))],
        lambda parts: [*parts[:4], "é" * 22],
        lambda parts: [*parts[:4], parts[4][:-1] + "_"],
        lambda parts: [*parts[:4], parts[4] + "\n"],
        lambda parts: ["a" * 5000, *parts[1:]],
    ],
)
def test_what_is_no_such_jwe_is_refused(spoil):
    with pytest.raises(FormatError, match=r"^secret: "):
        parse_envelope(".".join(spoil(sealed().split("."))), where="secret")


@pytest.mark.parametrize(("key", "version"), [(b"", 1), (b"k" * 31, 1), (b"k" * 32, 0), (b"k" * 32, 2**32)])
def test_what_would_not_parse_is_not_sealed(key, version):
    with pytest.raises(FormatError):
        sealed(key, version=version)


def test_no_message_and_no_repr_shows_the_key():
    envelope = parse_envelope(sealed(b"sixteen byte key"), where="secret")
    with pytest.raises(VerificationError) as caught:
        open_envelope(envelope, Secret(b"sixteen byte key" * 2), name=NAME, version=3)
    opened = open_envelope(envelope, cek_of(envelope), name=NAME, version=3)
    assert "sixteen" not in repr(caught.value) + repr(envelope) + repr(opened)
