"""Which keys sign packages, and that key, certificate and scheme belong together."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.cpk.schemes import CertificateUrl, PreSharedCertificate, SignatureScheme
from shared.cpk.schemes import Encoding as StreamEncoding
from shared.cpk.signing import (
    EmbeddedCertificateBytes,
    EmbeddedPublicKeyBytes,
    Role,
    ecdsa_from_der,
    ecdsa_to_der,
)
from shared.cpk.signing_keys import KeySigner, load_embedded_key, load_verification_key
from shared.errors import FormatError

KINDS = "RSA of 2048, 3072 or 4096 bits with e = 65537, EC P-256 or P-384, Ed25519 or ML-DSA-65"


def spki(key, encoding=Encoding.DER):
    return key.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)


def complaint(function, *arguments, **named):
    with pytest.raises(FormatError) as caught:
        function(*arguments, **named)
    return str(caught.value)


@pytest.mark.parametrize("scheme", SignatureScheme)
def test_every_scheme_has_a_key_that_loads(signing_keys, scheme):
    key = load_verification_key(spki(signing_keys[scheme]), where="key")

    assert scheme in key.schemes
    assert (key.strength is not None) is scheme.is_rsa
    assert (
        load_embedded_key(spki(signing_keys[scheme], Encoding.PEM), StreamEncoding.PEM, where="key").sha256
        == key.sha256
    )


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (ec.generate_private_key(ec.SECP521R1()), f"key: expected {KINDS}; found another kind of key"),
        (x25519.X25519PrivateKey.generate(), f"key: expected {KINDS}; found another kind of key"),
        (ed448.Ed448PrivateKey.generate(), f"key: expected {KINDS}; found another kind of key"),
    ],
    ids=["P-521", "X25519", "Ed448"],
)
def test_other_kinds_of_key_sign_no_packages(key, message):
    assert complaint(load_verification_key, spki(key), where="key") == message
    assert complaint(KeySigner.load, key, b"", where="c") == message.replace("key:", "signing key:")


def test_keys_that_are_weak_or_in_another_encoding_are_refused():
    weak = rsa.generate_private_key(65537, 1024)
    odd = rsa.generate_private_key(3, 2048)
    point = ec.generate_private_key(ec.SECP384R1()).public_key()
    compressed = point.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    header = bytes.fromhex("3046301006072a8648ce3d020106052b81040022033200")

    assert "found RSA of 1024 bits" in complaint(load_verification_key, spki(weak), where="key")
    assert "that is not 65537" in complaint(load_verification_key, spki(odd), where="key")
    assert "not in canonical DER" in complaint(load_verification_key, header + compressed, where="key")
    assert "found 5 other bytes" in complaint(load_verification_key, b"0\3\2\1\1", where="key")
    assert "at most 4096 bytes, found 4097" in complaint(load_verification_key, bytes(4097), where="key")


def test_a_signer_embeds_what_it_was_given(signing_keys, certify):
    key = signing_keys[SignatureScheme.ED25519]
    chain = KeySigner.load(key, certify(key), where="c.pem")
    bare = KeySigner.load(key, spki(key), where="k.der")
    own = KeySigner.load(key, PreSharedCertificate(domain="example.com"), where="target")
    far = KeySigner.load(key, CertificateUrl(url="https://example.com/c"), where="url")

    assert chain.certification == EmbeddedCertificateBytes(encoding=StreamEncoding.PEM, data=certify(key))
    assert chain.subject == "CN=Signer"
    assert bare.certification == EmbeddedPublicKeyBytes(encoding=StreamEncoding.DER, data=spki(key))
    assert bare.subject.startswith("key ")
    assert own.subject == "the device's own certificate for example.com"
    assert far.subject == "the certificate at https://example.com/c"


def test_a_signer_tells_what_does_not_belong_together(signing_keys, certify):
    key, other = signing_keys[SignatureScheme.ECDSA_P256], ec.generate_private_key(ec.SECP256R1())

    assert complaint(KeySigner.load, other, certify(key), where="c.pem") == (
        "c.pem: expected the signing key's certificate, found one for another key"
    )
    assert complaint(KeySigner.load, key, certify(key), where="c", scheme=SignatureScheme.RSA_PSS) == (
        "signing key: expected one that signs rsa-pss, found EC P-256, which signs ecdsa-p256"
    )
    assert complaint(KeySigner.load, "a key", certify(key), where="c") == (
        f"signing key: expected {KINDS}; found another kind of key"
    )
    assert "expected PEM or DER certificates" in complaint(KeySigner.load, key, b"-----BEGIN x", where="c")


def test_the_demo_key_signs_nothing(signing_keys, certify, monkeypatch):
    key = signing_keys[SignatureScheme.ED25519]
    pin = load_verification_key(spki(key), where="k").sha256
    monkeypatch.setattr("shared.cpk.signing_keys.DEMO_KEY_SHA256", pin)

    assert complaint(KeySigner.load, key, certify(key), where="c.pem") == (
        "c.pem: expected a key of your own, found the reference tool's public demo key"
    )


@pytest.mark.parametrize("scheme", [SignatureScheme.ECDSA_P256, SignatureScheme.ECDSA_P384])
def test_ecdsa_signatures_have_a_fixed_length_and_another_one_in_der(scheme):
    raw = bytes(3) + bytes(range(1, scheme.signature_size(None) - 2))

    der = ecdsa_to_der(raw)

    assert ecdsa_from_der(scheme, der, where="s") == raw
    assert complaint(ecdsa_from_der, scheme, der[:-1], where="s") == (
        f"s: expected an {scheme.value} signature in DER"
    )
    assert "expected an" in complaint(ecdsa_from_der, scheme, ecdsa_to_der(b"\xff" * 200), where="s")


@pytest.mark.parametrize("scheme", [scheme for scheme in SignatureScheme if scheme.is_reproducible])
def test_reproducible_schemes_sign_twice_the_same(bench_of, scheme):
    bench = bench_of(scheme)
    digest = bytes(scheme.digest_algorithm.size if scheme.digest_algorithm else 32)

    assert bench.signer.sign(digest, Role.PAYLOAD) == bench.signer.sign(digest, Role.PAYLOAD)


def test_a_signer_does_not_show_its_key(bench):
    numbers = bench.signer.private_key.private_numbers()

    assert str(numbers.d) not in repr(bench.signer)
    assert f"{numbers.d:x}" not in repr(bench.signer)
