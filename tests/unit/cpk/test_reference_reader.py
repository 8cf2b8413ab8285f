"""What the reference tool's reader makes of our packages: it opens those that use only its schemes.

Its reader is modelled by what it declares: the fields of each object with their types, unknown fields
ignored, and the tags of each scheme, unknown tags refused.
"""

import struct

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.cpk.profiles import POST_QUANTUM, RECOMMENDED, REFERENCE
from shared.cpk.schemes import CertificateUrl, PreSharedCertificate, SignatureScheme
from shared.cpk.signing_keys import KeySigner
from shared.types import Secret

U16, U32 = range(1 << 16), range(1 << 32)
ENCRYPTION = {"aes-gcm": {"key_name": str, "key_strength": U16, "nonce": U16, "tag": U16}}
DIGEST = {"sha256": {"data": U16}}
SIGNING = {"rsa-pkcs1v15": {"key_strength": U16, "data": U16}}
EMBEDDED = ["embedded-x509-pem", "embedded-x509-der", "embedded-public-key-pem", "embedded-public-key-der"]
CERTIFICATION = {
    "target": {"domain": str},
    "url": {"url": str},
    **{tag: {"data": U16} for tag in EMBEDDED},
}
SCHEMES = {"dig": DIGEST, "sig": SIGNING, "cert": CERTIFICATION}


class Refused(Exception):
    """The reference's reader takes no such manifest."""


def check_object(value, declared):
    if not isinstance(value, dict):
        raise Refused(value)
    for name, kind in declared.items():
        if name not in value:
            raise Refused(name)
        found = value[name]
        fits = isinstance(found, str) if kind is str else type(found) is int and found in kind
        if not fits:
            raise Refused(name, found)


def check_scheme(value, tags):
    if value == "none":
        return
    if not isinstance(value, dict) or len(value) != 1:
        raise Refused(value)
    ((tag, inner),) = value.items()
    if tag not in tags:
        raise Refused(f"unknown variant {tag}")
    check_object(inner, tags[tag])


def read_as_the_reference_does(data, take):
    """Check a package as the reference's reader declares it; return the manifest."""
    magic, version, flag, count, manifest, kind, manifest_version = struct.unpack_from("<IHHHHHH", data)
    if (magic, version, flag, kind, manifest_version) != (0x0ECCF00D, 1, 0, 1, 1) or manifest >= count:
        raise Refused("header")
    document = take(data).manifest()
    check_object(document, {"cp-id": str, "cp-name": str, "cp-vendor": str})
    payload, package = document["payload"], document["package"]
    check_object(payload, {"data": U16})
    check_object(payload["target"], {"arch": str, "os": str})
    check_object(payload["ver"], {"maj": U32, "min": U32, "rev": U32, "date": str})
    check_scheme(payload["enc"], ENCRYPTION)
    for section in (payload, package):
        for name, tags in SCHEMES.items():
            check_scheme(section[name], tags)
    assert all(index in range(count) for index in package["map"])
    return document


@pytest.fixture
def certifications(signing_key, certify):
    public = signing_key.public_key()
    pem = certify(signing_key)
    return {
        "embedded-x509-pem": pem,
        "embedded-x509-der": x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER),
        "embedded-public-key-pem": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "embedded-public-key-der": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "target": PreSharedCertificate(domain="example.com"),
        "url": CertificateUrl(url="https://example.com/c.pem"),
    }


@pytest.mark.parametrize("tag", CERTIFICATION)
def test_it_reads_the_reference_profile_under_every_certification(
    bench, take, signing_key, certifications, tag
):
    bench.signer = KeySigner.load(signing_key, certifications[tag], where="certificate")

    document = read_as_the_reference_does(bench.seal(version=3), take)

    assert list(document["payload"]["cert"]) == [tag]
    assert document["package"]["map"][0] == (8 if tag in EMBEDDED else 7)


@pytest.mark.parametrize("strength", [128, 192, 256])
def test_it_reads_every_strength_and_unsigned_packages(bench, take, strength):
    data = bench.seal(key=Secret(bytes(strength // 8)), signed=False, profile=REFERENCE)

    enc = read_as_the_reference_does(data, take)["payload"]["enc"]

    assert enc["aes-gcm"]["key_strength"] == strength


@pytest.mark.parametrize(
    ("profile", "scheme"),
    [(RECOMMENDED, SignatureScheme.RSA_PKCS1V15), (POST_QUANTUM, SignatureScheme.ML_DSA_65)],
)
def test_it_refuses_what_it_does_not_know_by_its_tag(bench_of, take, profile, scheme):
    data = bench_of(scheme).seal(profile=profile)

    with pytest.raises(Refused, match="unknown variant aes-gcm-stream"):
        read_as_the_reference_does(data, take)
