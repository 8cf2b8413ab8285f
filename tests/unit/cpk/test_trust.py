"""Whom a package may be signed by: roots, pinned keys, the device's own certificates, fetched ones."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.certificate_paths import TrustStore
from shared.certificates import load_certificates
from shared.cpk.profiles import RECOMMENDED
from shared.cpk.schemes import CertificateUrl, PreSharedCertificate, SignatureScheme
from shared.cpk.signing_keys import KeySigner
from shared.cpk.trust import Trust
from shared.errors import VerificationError

NOTHING = TrustStore(roots=())
URL = "https://certs.example.com/signer.pem"


@pytest.fixture
def key(signing_keys):
    return signing_keys[SignatureScheme.ECDSA_P256]


@pytest.fixture
def certified(certify, key):
    return certify(key)


@pytest.fixture
def sealed_with(bench_of, key):
    """Return a package whose signer is certified in another way, and its bench."""

    def sealed(certification):
        bench = bench_of(SignatureScheme.ECDSA_P256)
        bench.signer = KeySigner.load(key, certification, where="signer")
        return bench, bench.seal(b"x", profile=RECOMMENDED)

    return sealed


def refusal(bench, data, **arguments):
    with pytest.raises(VerificationError) as caught:
        bench.open(data, **arguments)
    assert bench.asked == []
    return caught.value.code, str(caught.value)


def spki(key, encoding=Encoding.DER):
    return key.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_a_bare_key_is_trusted_only_if_it_is_pinned(sealed_with, key, encoding):
    bench, data = sealed_with(spki(key, encoding))

    code, message = refusal(bench, data, trust=Trust(roots=bench.trust))
    pin = bytes.fromhex(message.rpartition(" ")[2])
    opened, clear = bench.open(data, trust=Trust(roots=NOTHING, pinned_keys=frozenset({pin})))

    assert code == "certificate_untrusted"
    assert message.startswith("payload certificate: expected a pinned public key, found one of SHA-256 ")
    assert clear == b"x"
    assert opened.signer.path is None
    assert opened.signer.leaf is None
    assert opened.signer.root_sha256 is None
    assert opened.signer.subject == f"pinned key {pin.hex()}"


def test_a_target_certificate_is_the_verifiers_own(sealed_with, key, certify):
    bench, data = sealed_with(PreSharedCertificate(domain="example.com"))
    own = load_certificates(certify(key), where="own")
    trust = Trust(roots=NOTHING, device_certificates={"example.com": own})

    assert bench.open(data, trust=trust)[0].signer.leaf == own[0]
    assert refusal(fresh(bench), data, trust=Trust(roots=bench.trust)) == (
        "certificate_untrusted",
        "payload certificate: expected one of the device's own for 'example.com', found none",
    )
    late = own[0].not_valid_after_utc + timedelta(seconds=1)
    assert refusal(fresh(bench), data, trust=trust, at=late)[0] == "certificate_expired"


def fresh(bench):
    bench.asked.clear()
    return bench


def test_a_certificate_by_url_is_trusted_if_the_caller_brings_one_with_a_path(sealed_with, key, certify):
    bench, data = sealed_with(CertificateUrl(url=URL))
    certificate = certify(key)
    roots = TrustStore.from_pem(certificate, where="roots")

    trust = Trust(roots=roots, fetched_certificates={URL: certificate})

    assert bench.open(data, trust=trust)[1] == b"x"


@pytest.mark.parametrize(
    ("fetched", "message"),
    [
        (
            None,
            f"payload certificate: expected one at hand, found the URL '{URL}', which is never fetched here",
        ),
        ("untrusted", "'CN=Signer' has no valid path to a trusted root"),
        (b"<html>", f"certificate from '{URL}': expected PEM or DER certificates, found something else"),
    ],
    ids=["not fetched", "untrusted", "no certificate"],
)
def test_any_other_certificate_by_url_is_refused(sealed_with, certified, bench_of, fetched, message):
    bench, data = sealed_with(CertificateUrl(url=URL))
    other = bench_of(SignatureScheme.ED25519).trust
    brought = {} if fetched is None else {URL: certified if fetched == "untrusted" else fetched}

    code, told = refusal(bench, data, trust=Trust(roots=other, fetched_certificates=brought))

    assert code == "certificate_untrusted"
    assert told.startswith(message)


def test_a_key_for_another_scheme_is_told(bench_of, take, signing_keys, certify):
    bench = bench_of(SignatureScheme.ECDSA_P256)
    package = take(bench.seal(b"x", profile=RECOMMENDED))
    document = package.manifest()
    document["package"].pop("layout")
    package.with_manifest(document).streams[5] = certify(signing_keys[SignatureScheme.ED25519])

    assert refusal(bench, package.join()) == (
        "signer_key_mismatch",
        "payload certificate: expected a key for ecdsa-p256 as the manifest says, found Ed25519",
    )
