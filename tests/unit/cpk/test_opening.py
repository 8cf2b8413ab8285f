"""Opening: what is refused, in which order, and that nothing is released before everything held."""

import dataclasses
import hashlib
import io
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from shared.certificate_paths import TrustStore
from shared.cpk.opening import CHUNK
from shared.cpk.signing import Role
from shared.errors import FormatError, KeyUnavailable, VerificationError
from shared.types import Secret

DEMO_CERTIFICATE = Path(__file__).parents[2] / "vectors" / "cpk" / "demo-certificate.pem"


def refusal(bench, data, **arguments):
    with pytest.raises((VerificationError, KeyUnavailable)) as caught:
        bench.open(data, **arguments)
    return caught.value.code


def flipped(data, offset):
    return data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]


def test_a_sealed_package_opens(bench):
    opened, clear = bench.open(bench.seal(b"secret", version=4))

    assert clear == b"secret"
    assert opened.payload_size == 6
    assert opened.package_signed
    assert opened.signer.leaf == bench.trust.roots[0]
    assert [(asked.name, asked.version, asked.strength) for asked in bench.asked] == [("app-1", 4, 256)]


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, CHUNK + 1, 7 * CHUNK + 5])
def test_every_chunk_boundary_round_trips(bench, size, parallel):
    payload = bytes(range(251)) * (size // 251 + 1)
    data = bench.seal(payload[:size], parallel=parallel)

    assert bench.open(data, parallel=parallel)[1] == payload[:size]


def test_chunks_are_read_only_and_at_most_one_mebibyte(bench):
    chunks = []

    bench.open(bench.seal(bytes(CHUNK + 1)), sink=lambda chunk: chunks.append((len(chunk), chunk.readonly)))

    assert chunks == [(CHUNK, True), (1, True)]


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (0, "tag_mismatch"),
        (1, "tag_mismatch"),
        (2, "tag_mismatch"),
        (3, "digest_mismatch"),
        (4, "payload_signature_invalid"),
        (6, "package_digest_mismatch"),
        (7, "package_signature_invalid"),
    ],
)
def test_a_changed_stream_is_refused(bench, take, stream, code):
    package = take(bench.seal())
    package.streams[stream] = flipped(package.streams[stream], 5)

    assert refusal(bench, package.join()) == code


def test_a_changed_manifest_of_a_signed_package_is_refused(bench, take):
    package = take(bench.seal())
    document = package.manifest()
    document["cp-vendor"] = "Vandal"

    assert refusal(bench, package.with_manifest(document).join()) == "package_digest_mismatch"


def test_wrong_class_key_is_refused(bench):
    assert refusal(bench, bench.seal(), key=Secret(bytes(32))) == "tag_mismatch"


def test_class_key_of_another_length_is_refused(bench):
    assert refusal(bench, bench.seal(), key=Secret(bytes(16))) == "key_mismatch"


@pytest.mark.parametrize("length", [16, 24])
def test_shorter_aes_keys_round_trip(bench, length):
    key = Secret(bytes(length))

    assert bench.open(bench.seal(b"x", key=key), key=key)[1] == b"x"


def test_key_name_that_is_no_key_name_is_refused_as_unavailable(bench, edit):
    assert refusal(bench, edit("payload/enc/aes-gcm/key_name", "../x")) == "key_unavailable"
    assert bench.asked == []


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("payload/enc", "none", "unencrypted"),
        ("payload/sig", "none", "unsigned"),
        ("payload/cert", {"url": {"url": "https://example.com"}}, "certificate_untrusted"),
        ("payload/cert", {"target": {"domain": "example.com"}}, "certificate_untrusted"),
        ("package/map", [], "map_incomplete"),
        ("package/map", [0, 1, 2, 3, 4, 5], "map_incomplete"),
        ("package/map", [8, 0, 1, 2, 3, 4], "map_incomplete"),
    ],
)
def test_what_is_missing_is_refused_before_a_key_is_asked_for(bench, edit, path, value, code):
    assert refusal(bench, edit(path, value)) == code
    assert bench.asked == []


def test_requirements_decide_and_not_the_package(bench):
    unsigned = bench.seal(b"x", signed=False)

    assert refusal(bench, unsigned) == "unsigned"
    opened, clear = bench.open(unsigned, payload_signature=False)
    assert (clear, opened.signer, opened.package_signed) == (b"x", None, False)
    assert refusal(bench, unsigned, payload_signature=False, package_signature=True) == "package_unsigned"


def test_payload_in_clear_opens_only_where_that_is_allowed(bench, take):
    package = take(bench.seal(b"x" * 20, signed=False))
    document = package.manifest()
    document["payload"]["enc"] = "none"
    package.with_manifest(document).streams[0] = b"x" * 20

    opened, clear = bench.open(package.join(), payload_signature=False, encryption=False)

    assert clear == b"x" * 20
    assert bench.asked == []
    assert opened.payload_size == 20


def test_certificates_are_judged_at_the_given_time(bench):
    data = bench.seal()
    leaf = bench.trust.roots[0]

    late = leaf.not_valid_after_utc + timedelta(seconds=1)
    early = leaf.not_valid_before_utc - timedelta(seconds=1)
    assert refusal(bench, data, at=late) == "certificate_expired"
    assert refusal(bench, data, at=early) == "certificate_not_yet_valid"
    assert bench.asked == []


def test_a_signer_that_nothing_trusts_is_refused(bench):
    assert refusal(bench, bench.seal(), trust=TrustStore(roots=())) == "certificate_untrusted"


def test_a_certificate_of_another_size_than_the_signature_is_refused(bench, take):
    package = take(bench.seal())
    document = package.manifest()
    document["payload"]["sig"]["rsa-pkcs1v15"]["key_strength"] = 3072
    document["package"].pop("layout")
    package.with_manifest(document).streams[4] = bytes(384)

    assert refusal(bench, package.join()) == "signer_key_mismatch"


def test_the_public_demo_key_is_refused_unless_allowed(bench, take):
    package = take(bench.seal(signed=True))
    document = package.manifest()
    document["package"] |= {"dig": "none", "sig": "none", "cert": "none"}
    document["package"].pop("layout")
    package.with_manifest(document).streams[5] = DEMO_CERTIFICATE.read_bytes()
    data = package.join()

    assert refusal(bench, data) == "insecure_key"
    assert refusal(bench, data, insecure_demo_key=True) == "certificate_expired"


def test_payload_signature_stays_required_to_hold_where_it_is_not_required_to_exist(bench, take):
    package = take(bench.seal())
    package.streams[4] = bytes(256)

    assert refusal(bench, package.join(), payload_signature=False) == "payload_signature_invalid"


def test_what_was_inspected_is_what_is_verified_though_the_file_changes(bench):
    """A file that swaps its manifest after it was read cannot get another one signed for."""
    data = bench.seal(b"p" * 100)

    class Swapping(io.BytesIO):
        def readinto(self, buffer, /):
            overlay = data[:-50] + b"\0" * 50
            here = self.tell()
            self.seek(0)
            self.write(overlay)
            self.seek(here)
            return super().readinto(buffer)

    opened, clear = bench.open(data, file=Swapping(data))

    assert clear == b"p" * 100
    assert opened.manifest.id == "app-1"


def test_a_file_that_ends_early_is_malformed(bench):
    data = bench.seal(bytes(3 * CHUNK))

    class Shrinking(io.BytesIO):
        def readinto(self, buffer, /):
            return super().readinto(buffer) if self.tell() < CHUNK else 0

    with pytest.raises(FormatError, match="the file ends after 1048576 of them"):
        bench.open(data, file=Shrinking(data))


def test_the_sinks_error_passes_and_no_thread_stays(bench):
    data = bench.seal(bytes(5 * CHUNK))

    def full(_chunk):
        raise OSError(28, "no space")

    with pytest.raises(OSError, match="no space"):
        bench.open(data, sink=full, parallel=True)
    assert not [thread for thread in threading.enumerate() if thread.name == "sha256"]


def test_a_map_may_hold_streams_that_the_manifest_does_not_name(bench, take):
    package = take(bench.seal(b"x"))
    document = package.manifest()
    document["package"].pop("layout")
    document["package"]["map"] = [9, 0, 1, 2, 3, 4, 5, 8]
    package.header[4] = 9
    package.streams[8:] = [b"unnamed", b""]
    package.with_manifest(document)
    covered = b"".join(package.streams[index] for index in document["package"]["map"])
    package.streams[6] = hashlib.sha256(covered).digest()
    package.streams[7] = bench.signer.sign(package.streams[6], Role.PACKAGE)

    assert bench.open(package.join())[0].package_signed
    package.streams[8] = b"unnames"
    assert refusal(bench, package.join()) == "package_digest_mismatch"


def test_signing_with_another_key_than_the_certificates_is_refused(bench):
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    bench.signer = dataclasses.replace(bench.signer, private_key=other)

    assert refusal(bench, bench.seal()) == "payload_signature_invalid"


def test_der_certificates_open(bench, take):
    package = take(bench.seal(b"x"))
    document = package.manifest()
    document["package"] |= {"dig": "none", "sig": "none", "cert": "none"}
    document["package"].pop("layout")
    document["payload"]["cert"] = {"embedded-x509-der": {"data": 5}}
    package.with_manifest(document).streams[5] = bench.trust.roots[0].public_bytes(Encoding.DER)

    assert bench.open(package.join())[1] == b"x"


def payload_signed_only(bench, take, certificate):
    """Return a package whose payload alone is signed, with another certificate in it."""
    package = take(bench.seal(b"x"))
    document = package.manifest()
    document["package"] |= {"dig": "none", "sig": "none", "cert": "none"}
    document["package"].pop("layout")
    package.with_manifest(document).streams[5] = certificate
    return package.join()


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())],
    ids=["P-256", "P-384", "P-521"],
)
def test_a_certificate_without_rsa_key_is_refused(bench, take, certify, key):
    assert refusal(bench, payload_signed_only(bench, take, certify(key))) == "signer_key_mismatch"


def test_a_certificate_that_may_not_sign_is_refused(bench, take, certify, signing_key):
    names = ("content_commitment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign")
    usage = x509.KeyUsage(
        digital_signature=False,
        key_encipherment=True,
        encipher_only=False,
        decipher_only=False,
        **dict.fromkeys(names, False),
    )
    certificate = certify(signing_key, usage)
    trust = TrustStore.from_pem(certificate, where="trust")

    data = payload_signed_only(bench, take, certificate)

    assert refusal(bench, data, trust=trust) == "certificate_untrusted"
