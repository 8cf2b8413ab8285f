"""Signing elsewhere: prepare, say what to sign, fill in what comes back after checking it."""

import hashlib
import io

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.certificate_paths import TrustStore
from shared.certificates import load_certificates
from shared.cpk.hashing import HashAlgorithm
from shared.cpk.offline import (
    OfflineSigner,
    fill_signatures,
    package_to_sign,
    payload_to_sign,
    request_for,
)
from shared.cpk.profiles import RECOMMENDED, REFERENCE, Cipher, Profile
from shared.cpk.schemes import PreSharedCertificate, SignatureScheme
from shared.cpk.signing import Role
from shared.cpk.trust import Trust
from shared.errors import FormatError, VerificationError

CLEAR = Profile(name="test", cipher=Cipher.AES_GCM)


def sign_elsewhere(key, request):
    """Sign a request's message as a tool does that knows nothing of packages; ECDSA in DER."""
    if request.scheme is SignatureScheme.RSA_PKCS1V15:
        return key.sign(request.message, padding.PKCS1v15(), utils.Prehashed(hashes.SHA256()))
    if request.scheme is SignatureScheme.RSA_PSS:
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
        return key.sign(request.message, pss, utils.Prehashed(hashes.SHA256()))
    if request.scheme.is_ecdsa:
        hashed = hashes.SHA256() if request.algorithm is HashAlgorithm.SHA256 else hashes.SHA384()
        return key.sign(request.message, ec.ECDSA(utils.Prehashed(hashed)))
    return key.sign(request.message)


def prepared(bench, key, certificate, scheme, *, profile=RECOMMENDED, **named):
    bench.signer = OfflineSigner.load(certificate, where="c.pem", scheme=scheme, **named)
    return bench.seal(b"payload", profile=profile)


def fill(data, **signatures):
    output = io.BytesIO()
    fill_signatures(io.BytesIO(data), len(data), output, **signatures)
    return output.getvalue()


def code_of(error, function, *arguments, **named):
    with pytest.raises(error) as caught:
        function(*arguments, **named)
    return caught.value.code


@pytest.mark.parametrize("profile", [CLEAR, RECOMMENDED], ids=["clear", "ciphertext"])
@pytest.mark.parametrize("scheme", SignatureScheme)
def test_a_package_signed_elsewhere_opens(bench_of, signing_keys, certify, scheme, profile):
    bench, key = bench_of(scheme), signing_keys[scheme]
    certificate = certify(key)
    trust = TrustStore.from_pem(certificate, where="trust")
    data = prepared(bench, key, certificate, scheme, profile=profile)
    assert code_of(VerificationError, bench.open, data, trust=trust) == "payload_signature_invalid"

    payload = sign_elsewhere(key, payload_to_sign(io.BytesIO(data), len(data)))
    half = fill(data, payload_signature=payload)
    assert code_of(VerificationError, bench.open, half, trust=trust) == "package_signature_invalid"
    request = package_to_sign(io.BytesIO(data), len(data), payload_signature=payload)
    assert request == package_to_sign(io.BytesIO(half), len(half))
    package = sign_elsewhere(key, request)
    at_once = fill(data, payload_signature=payload, package_signature=package)

    assert fill(half, package_signature=package) == at_once
    opened, clear = bench.open(at_once, trust=trust, package_signature=True)
    assert clear == b"payload"
    assert opened.signer.subject == "CN=Signer"


def test_a_payload_in_clear_can_be_signed_before_it_is_sealed(bench_of, signing_keys, certify):
    scheme = SignatureScheme.RSA_PKCS1V15
    bench, key = bench_of(scheme), signing_keys[scheme]
    request = request_for(scheme, HashAlgorithm.SHA256, hashlib.sha256(b"payload").digest(), Role.PAYLOAD)
    signature = sign_elsewhere(key, request)
    bench.signer = OfflineSigner.load(certify(key), where="c", payload_signature=signature)
    trust = TrustStore.from_pem(certify(key), where="trust")

    data = bench.seal(b"payload", profile=REFERENCE, package_signature=False)

    assert bench.open(data, trust=trust)[1] == b"payload"
    assert code_of(VerificationError, bench.seal, b"another payload") == "payload_signature_invalid"


def test_signatures_that_do_not_hold_are_not_filled_in(bench_of, signing_keys, certify):
    scheme = SignatureScheme.ED25519
    bench, key = bench_of(scheme), signing_keys[scheme]
    data = prepared(bench, key, certify(key), scheme)
    good = sign_elsewhere(key, payload_to_sign(io.BytesIO(data), len(data)))

    assert code_of(VerificationError, fill, data, payload_signature=b"\1" * 64) == "payload_signature_invalid"
    assert (
        code_of(VerificationError, fill, data, payload_signature=good, package_signature=good)
        == "package_signature_invalid"
    )
    with pytest.raises(FormatError, match="payload signature: expected 64 bytes of ed25519, found 3"):
        fill(data, payload_signature=b"abc")
    with pytest.raises(FormatError, match="expected the payload's signature, found none yet"):
        fill(data)
    with pytest.raises(FormatError, match="expected the payload's signature, found none yet"):
        package_to_sign(io.BytesIO(data), len(data))


def test_what_is_not_to_be_signed_is_told(bench_of):
    data = bench_of(SignatureScheme.RSA_PKCS1V15).seal(b"x", signed=False)

    with pytest.raises(FormatError, match='/payload/sig: expected a signature to be made, found "none"'):
        payload_to_sign(io.BytesIO(data), len(data))
    with pytest.raises(FormatError, match='/package/sig: expected a signature to be made, found "none"'):
        package_to_sign(io.BytesIO(data), len(data))


def test_a_certificate_that_is_not_embedded_is_brought_along(bench_of, signing_keys, certify):
    scheme = SignatureScheme.ECDSA_P384
    bench, key = bench_of(scheme), signing_keys[scheme]
    place = PreSharedCertificate(domain="example.com")
    data = prepared(bench, key, certify(key), scheme, place=place)
    payload = sign_elsewhere(key, payload_to_sign(io.BytesIO(data), len(data)))

    with pytest.raises(FormatError, match="certificate: expected one to check with"):
        fill(data, payload_signature=payload)
    other = signing_keys[SignatureScheme.ED25519].public_key()
    spki = other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert (
        code_of(VerificationError, fill, data, payload_signature=payload, certificate=spki)
        == "payload_signature_invalid"
    )
    request = package_to_sign(io.BytesIO(data), len(data), payload_signature=payload)
    package = sign_elsewhere(key, request)
    done = fill(data, payload_signature=payload, package_signature=package, certificate=certify(key))

    own = {"example.com": load_certificates(certify(key), where="own")}
    trust = Trust(roots=TrustStore(roots=()), device_certificates=own)
    assert bench.open(done, trust=trust, package_signature=True)[1] == b"payload"


def test_ciphertext_that_was_changed_after_preparing_is_not_signed_for(bench_of, signing_keys, certify, take):
    scheme = SignatureScheme.ECDSA_P256
    bench, key = bench_of(scheme), signing_keys[scheme]
    data = prepared(bench, key, certify(key), scheme)
    signature = sign_elsewhere(key, payload_to_sign(io.BytesIO(data), len(data)))
    package = take(data)
    package.streams[0] = b"\0" * len(package.streams[0])

    assert (
        code_of(VerificationError, fill, package.join(), payload_signature=signature)
        == "payload_signature_invalid"
    )


def test_a_digest_that_is_not_the_one_to_be_signed_is_told(bench_of, take):
    bench = bench_of(SignatureScheme.RSA_PKCS1V15)
    package = take(bench.seal(b"x"))
    document = package.manifest()
    document["payload"]["dig"] = "none"
    document["package"].pop("layout")
    data = package.with_manifest(document).join()

    with pytest.raises(FormatError) as caught:
        payload_to_sign(io.BytesIO(data), len(data))
    assert str(caught.value) == "manifest /payload/dig: expected sha256, which is to be signed, found none"


def test_a_bare_key_that_is_embedded_checks_its_signatures(bench_of, signing_keys):
    scheme = SignatureScheme.ED25519
    bench, key = bench_of(scheme), signing_keys[scheme]
    spki = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    data = prepared(bench, key, spki, scheme)

    half = fill(data, payload_signature=sign_elsewhere(key, payload_to_sign(io.BytesIO(data), len(data))))

    assert len(half) == len(data)
    assert bench.signer.subject == f"key {bench.signer.key.sha256.hex()}"
