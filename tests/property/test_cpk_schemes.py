"""Properties of every scheme: round trips of each cipher with each signature, and of random access."""

import contextlib
import io
import itertools
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.certificate_paths import TrustStore
from shared.certificates import load_certificates
from shared.cpk.encryption import PayloadNonce, start_opening, start_sealing
from shared.cpk.hashing import HashAlgorithm
from shared.cpk.manifest import Target, Version, encode_manifest, parse_manifest
from shared.cpk.opening import Requirements, inspect_package, open_package
from shared.cpk.planning import plan_package
from shared.cpk.profiles import Cipher, Profile
from shared.cpk.scheme_json import SEGMENT_SIZES
from shared.cpk.schemes import CertificateUrl, PreSharedCertificate, SignatureScheme
from shared.cpk.schemes import ChaCha20Poly1305 as ChaChaScheme
from shared.cpk.sealing import ClassKey, Description, seal_package
from shared.cpk.segments import SegmentReader
from shared.cpk.signing import Role, to_be_signed
from shared.cpk.signing_keys import KeySigner, load_verification_key
from shared.cpk.trust import Trust
from shared.errors import FormatError, VerificationError
from shared.types import KeyName, Secret

NOW = datetime(2026, 11, 20, tzinfo=UTC)
URL, DOMAIN = "https://certs.example.com/s.pem", "example.com"
DESCRIPTION = Description(
    id="app",
    name="Application",
    vendor="Vendor",
    target=Target(arch="any", os="any"),
    version=Version(major=1, minor=0, revision=0, date=NOW),
)
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KEYS = {
    SignatureScheme.RSA_PKCS1V15: RSA_KEY,
    SignatureScheme.RSA_PSS: RSA_KEY,
    SignatureScheme.ECDSA_P256: ec.generate_private_key(ec.SECP256R1()),
    SignatureScheme.ECDSA_P384: ec.generate_private_key(ec.SECP384R1()),
    SignatureScheme.ED25519: ed25519.Ed25519PrivateKey.generate(),
    SignatureScheme.ML_DSA_65: mldsa.MLDSA65PrivateKey.generate(),
}
FORMS = ("x509-pem", "x509-der", "key-pem", "key-der", "target", "url")


def self_signed(key):
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Signer")])
    pure = isinstance(key, ed25519.Ed25519PrivateKey | mldsa.MLDSA65PrivateKey)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .sign(key, None if pure else hashes.SHA256())
    )


CERTIFICATES = {scheme: self_signed(key) for scheme, key in KEYS.items()}


def certification(scheme, form):
    kind, _, encoding = form.partition("-")
    encoding = Encoding.PEM if encoding == "pem" else Encoding.DER
    if kind == "x509":
        return CERTIFICATES[scheme].public_bytes(encoding)
    if kind == "key":
        return KEYS[scheme].public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
    return PreSharedCertificate(domain=DOMAIN) if kind == "target" else CertificateUrl(url=URL)


def trust_in(scheme):
    certificate = CERTIFICATES[scheme]
    pem = certificate.public_bytes(Encoding.PEM)
    spki = KEYS[scheme].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Trust(
        roots=TrustStore(roots=(certificate,)),
        pinned_keys=frozenset({load_verification_key(spki, where="key").sha256}),
        device_certificates={DOMAIN: load_certificates(pem, where="own")},
        fetched_certificates={URL: pem},
    )


def profiles(cipher):
    return st.builds(
        Profile,
        name=st.just("any"),
        cipher=st.just(cipher),
        segment_size=st.sampled_from(SEGMENT_SIZES),
        of_ciphertext=st.booleans(),
        digest=st.sampled_from(HashAlgorithm),
    )


def seal(payload, profile, *, signer=None, key=None, nonce=None, parallel=False):
    output = io.BytesIO()
    seal_package(
        io.BytesIO(payload),
        len(payload),
        output,
        description=DESCRIPTION,
        class_key=ClassKey(name=KeyName("k"), version=None, key=key or Secret(bytes(32))),
        nonce=nonce or bytes(range(profile.nonce_size)),
        signer=signer,
        profile=profile,
        parallel=parallel,
    )
    return output.getvalue()


def open_with(data, trust, *, key=None, parallel=False, **requirements):
    clear = bytearray()
    opened = open_package(
        io.BytesIO(data),
        len(data),
        class_key=lambda _: key or Secret(bytes(32)),
        trust=trust,
        at=NOW,
        requirements=Requirements(**requirements),
        sink=clear.extend,
        parallel=parallel,
    )
    return opened, bytes(clear)


@pytest.mark.parametrize(
    ("cipher", "scheme"), list(itertools.product(Cipher, SignatureScheme)), ids=lambda value: value.value
)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_cipher_with_every_signature_opens_as_it_was(cipher, scheme, data):
    profile = data.draw(profiles(cipher))
    strength = data.draw(st.sampled_from(profile.strengths))
    key = Secret(data.draw(st.binary(min_size=strength // 8, max_size=strength // 8)))
    nonce = data.draw(st.binary(min_size=profile.nonce_size, max_size=profile.nonce_size))
    size = data.draw(
        st.integers(1, 3000) | st.integers(-2, 2).map(lambda near: 2 * profile.segment_size + near)
    )
    form, parallel = data.draw(st.sampled_from(FORMS)), data.draw(st.booleans())
    payload = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    signer = KeySigner.load(KEYS[scheme], certification(scheme, form), where="signer", scheme=scheme)

    sealed = seal(payload, profile, signer=signer, key=key, nonce=nonce, parallel=parallel)
    opened, clear = open_with(
        sealed, trust_in(scheme), key=key, parallel=not parallel, package_signature=True
    )

    assert clear == payload
    assert opened.payload_size == size
    assert opened.package_signed
    assert inspect_package(io.BytesIO(sealed), len(sealed)).warnings == ()


@settings(max_examples=60, deadline=None)
@given(
    cipher=st.sampled_from(Cipher),
    scheme=st.sampled_from(SignatureScheme),
    form=st.sampled_from(FORMS),
    size=st.integers(1, 2**40),
    data=st.data(),
)
def test_every_planned_manifest_reads_as_it_was_written(cipher, scheme, form, size, data):
    profile = data.draw(profiles(cipher))
    signer = KeySigner.load(KEYS[scheme], certification(scheme, form), where="signer", scheme=scheme)
    version = data.draw(st.none() | st.integers(1, 99))
    try:
        plan = plan_package(
            size,
            description=DESCRIPTION,
            class_key=ClassKey(name=KeyName("k"), version=version, key=Secret(bytes(32))),
            signer=signer,
            profile=profile,
            package_signature=profile.of_ciphertext or data.draw(st.booleans()),
        )
    except FormatError:
        assert size > 2**36 - 32
        assert cipher is not Cipher.AES_GCM_STREAM
        return

    assert parse_manifest(encode_manifest(plan.manifest), stream_count=len(plan.sizes) + 1) == plan.manifest


SMALL = {
    (cipher, scheme): seal(
        b"payload " * 20,
        Profile(name="any", cipher=cipher, segment_size=1 << 16, of_ciphertext=True),
        signer=KeySigner.load(KEYS[scheme], certification(scheme, "x509-der"), where="s", scheme=scheme),
    )
    for cipher, scheme in itertools.product(Cipher, SignatureScheme)
}


@settings(max_examples=400, deadline=None)
@given(made=st.sampled_from(sorted(SMALL, key=str)), place=st.integers(0), bit=st.integers(0, 7))
def test_no_changed_bit_of_any_scheme_is_released(made, place, bit):
    changed = bytearray(SMALL[made])
    changed[place % len(changed)] ^= 1 << bit

    with pytest.raises((FormatError, VerificationError)):
        open_with(bytes(changed), trust_in(made[1]), package_signature=True)


@settings(max_examples=300, deadline=None)
@given(
    made=st.sampled_from(sorted(SMALL, key=str)),
    cut=st.integers(0, 5000),
    moves=st.lists(st.tuples(st.integers(0), st.integers(0), st.integers(1, 300)), max_size=3),
)
def test_packages_cut_and_copied_about_are_read_or_malformed_and_nothing_else(made, cut, moves):
    data = bytearray(SMALL[made])
    for source, target, count in moves:
        at, to = source % len(data), target % len(data)
        piece = data[at : at + count]
        data[to : to + len(piece)] = piece
    with contextlib.suppress(FormatError):
        inspect_package(io.BytesIO(bytes(data[:cut])), min(cut, len(data)))


@settings(max_examples=100, deadline=None)
@given(
    payload=st.binary(min_size=1, max_size=5000),
    key=st.binary(min_size=32, max_size=32),
    nonce=st.binary(min_size=12, max_size=12),
    block=st.integers(1, 40).map(lambda count: count * 64),
)
def test_chacha20_poly1305_in_blocks_is_the_librarys_in_one(payload, key, nonce, block):
    scheme = ChaChaScheme(key_name="k", nonce=1, tag=2, key_version=None)
    arguments = {"payload_size": len(payload), "manifest_sha256": bytes(32)}
    expected = ChaCha20Poly1305(key).encrypt(nonce, payload, None)

    sealer = start_sealing(scheme, Secret(key), PayloadNonce(nonce=nonce), **arguments)
    sealed = b"".join(through(sealer, payload, block))
    opener = start_opening(scheme, Secret(key), PayloadNonce(nonce=nonce), **arguments)
    clear = b"".join(through(opener, sealed, block))

    assert sealed + sealer.finish() == expected
    assert clear == payload
    opener.finish(expected[-16:])


def through(cipher, data, block):
    room = memoryview(bytearray(block + cipher.growth))
    for at in range(0, len(data), block):
        piece = memoryview(bytearray(data[at : at + block]))
        yield bytes(room[: cipher(piece, room[: len(piece) + cipher.growth])])


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 4 << 16),
    offset=st.integers(0, 5 << 16),
    count=st.integers(0, 5 << 16),
)
def test_any_range_of_a_segmented_payload_is_what_it_was(size, offset, count):
    payload = (bytes(range(251)) * (size // 251 + 1))[:size]
    profile = Profile(name="any", cipher=Cipher.AES_GCM_STREAM, segment_size=1 << 16, of_ciphertext=True)
    sealed = seal(payload, profile)

    reader = SegmentReader(io.BytesIO(sealed), len(sealed), class_key=lambda _: Secret(bytes(32)))

    assert reader.size == size
    assert reader.read(offset, count) == payload[offset : offset + count]


@given(digest=st.binary(min_size=32, max_size=64), role=st.sampled_from(Role))
def test_messages_of_pure_schemes_are_told_apart(digest, role):
    other = Role.PACKAGE if role is Role.PAYLOAD else Role.PAYLOAD

    message = to_be_signed(SignatureScheme.ED25519, digest, role)

    assert message.endswith(digest)
    assert message != to_be_signed(SignatureScheme.ED25519, digest, other)
    assert to_be_signed(SignatureScheme.ECDSA_P256, digest, role) == digest
