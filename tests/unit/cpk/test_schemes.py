"""Every cipher with every signature: what is sealed opens, and what was changed does not."""

import dataclasses
import io
import itertools

import pytest
from cryptography.exceptions import InvalidSignature

from shared.cpk.hashing import HashAlgorithm
from shared.cpk.package import inspect_package
from shared.cpk.profiles import POST_QUANTUM, PROFILES, RECOMMENDED, REFERENCE, Cipher, Profile
from shared.cpk.schemes import SignatureScheme
from shared.cpk.signing import Role, to_be_signed, verify
from shared.errors import FormatError, VerificationError
from shared.types import Secret

SEGMENT = 1 << 16
SCHEMES = list(SignatureScheme)
MATRIX = list(itertools.product(Cipher, SCHEMES, (False, True)))


def profile_of(cipher, *, of_ciphertext=False, digest=HashAlgorithm.SHA256):
    return Profile(
        name="test", cipher=cipher, segment_size=SEGMENT, of_ciphertext=of_ciphertext, digest=digest
    )


def refusal(bench, data, **arguments):
    with pytest.raises(VerificationError) as caught:
        bench.open(data, **arguments)
    return caught.value.code


@pytest.mark.parametrize(
    ("cipher", "scheme", "of_ciphertext"),
    MATRIX,
    ids=[f"{c.value} {s.value} {'ciphertext' if of else 'clear'}" for c, s, of in MATRIX],
)
def test_every_cipher_with_every_signature_round_trips(bench_of, cipher, scheme, of_ciphertext):
    bench = bench_of(scheme)
    profile = profile_of(cipher, of_ciphertext=of_ciphertext)
    payload = bytes(range(256)) * 700  # three segments, the last one short

    opened, clear = bench.open(bench.seal(payload, profile=profile), package_signature=True)

    assert clear == payload
    assert opened.package_signed
    assert opened.manifest.payload.signature.scheme is scheme
    assert opened.manifest.payload.digest.of_ciphertext is of_ciphertext


@pytest.mark.parametrize("algorithm", HashAlgorithm)
@pytest.mark.parametrize("scheme", [SignatureScheme.ED25519, SignatureScheme.ML_DSA_65])
def test_pure_schemes_sign_a_digest_of_any_algorithm(bench_of, scheme, algorithm):
    bench = bench_of(scheme)

    opened, clear = bench.open(
        bench.seal(b"x", profile=profile_of(Cipher.AES_GCM, digest=algorithm)), package_signature=True
    )

    assert clear == b"x"
    assert opened.manifest.payload.digest.algorithm is algorithm
    assert (opened.payload_sha256 is not None) is (algorithm is HashAlgorithm.SHA256)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("stream", "code"),
    [(4, "payload_signature_invalid"), (7, "package_signature_invalid")],
)
def test_a_changed_signature_of_any_scheme_is_refused(bench_of, take, scheme, stream, code):
    bench = bench_of(scheme)
    package = take(bench.seal(b"x", profile=profile_of(Cipher.AES_GCM)))
    signature = bytearray(package.streams[stream])
    signature[len(signature) // 2] ^= 1
    package.streams[stream] = bytes(signature)

    assert refusal(bench, package.join()) == code


@pytest.mark.parametrize("scheme", [SignatureScheme.ED25519, SignatureScheme.ML_DSA_65])
def test_a_pure_signature_over_the_package_is_none_over_the_payload(bench_of, scheme):
    bench = bench_of(scheme)
    digest = bytes(32)
    signature = bench.signer.sign(digest, Role.PACKAGE)
    key = bench.signer.private_key.public_key()

    verify(key, scheme, signature, digest, Role.PACKAGE)
    assert to_be_signed(scheme, digest, Role.PAYLOAD) == b"CPK-SIG-v1\0payload\0" + digest
    with pytest.raises(InvalidSignature):
        verify(key, scheme, signature, digest, Role.PAYLOAD)


def test_profiles_write_what_they_are_called(bench_of):
    recommended = inspect(bench_of(SignatureScheme.ECDSA_P256).seal(b"x", profile=RECOMMENDED))
    post_quantum = inspect(bench_of(SignatureScheme.ML_DSA_65).seal(b"x", profile=POST_QUANTUM))

    assert set(PROFILES) == {"reference", "recommended", "post-quantum"}
    for manifest in (recommended, post_quantum):
        assert manifest.payload.encryption.segment_size == 1 << 20
        assert manifest.payload.digest.of_ciphertext
        assert manifest.package.map[0] == 0
    assert post_quantum.payload.signature.scheme is SignatureScheme.ML_DSA_65


def inspect(data):
    return inspect_package(io.BytesIO(data), len(data)).manifest


@pytest.mark.parametrize(
    ("profile", "scheme", "key", "message"),
    [
        (
            REFERENCE,
            SignatureScheme.ED25519,
            bytes(32),
            "profile reference: expected a key that signs rsa-pkcs1v15, found ed25519",
        ),
        (
            POST_QUANTUM,
            SignatureScheme.ECDSA_P256,
            bytes(32),
            "profile post-quantum: expected a key that signs ml-dsa-65, found ecdsa-p256",
        ),
        (
            POST_QUANTUM,
            SignatureScheme.ML_DSA_65,
            bytes(16),
            "class key app-1: expected 32 bytes, found 16",
        ),
        (
            profile_of(Cipher.CHACHA20_POLY1305),
            SignatureScheme.ED25519,
            bytes(24),
            "class key app-1: expected 32 bytes, found 24",
        ),
    ],
)
def test_a_profile_refuses_keys_that_do_not_fit_it(bench_of, profile, scheme, key, message):
    with pytest.raises(FormatError) as caught:
        bench_of(scheme).seal(b"x", profile=profile, key=Secret(key))

    assert str(caught.value) == message


def test_a_ciphertext_digest_without_package_signature_is_neither_written_nor_accepted(bench_of, take):
    bench = bench_of(SignatureScheme.ECDSA_P256)
    with pytest.raises(FormatError, match="profile recommended: expected a package signature"):
        bench.seal(b"x", profile=RECOMMENDED, package_signature=False)
    package = take(bench.seal(b"x", profile=profile_of(Cipher.AES_GCM, of_ciphertext=True)))
    document = package.manifest()
    document["package"] |= {"dig": "none", "sig": "none", "cert": "none"}
    del document["package"]["layout"]

    assert refusal(bench, package.with_manifest(document).join()) == "package_unsigned"


def test_a_payload_signature_alone_is_written_on_request(bench, take):
    data = bench.seal(b"x", package_signature=False)

    assert take(data).manifest()["package"] == {
        "map": [0, 1, 2, 3, 4, 5, 6],
        "dig": "none",
        "sig": "none",
        "cert": "none",
    }
    opened, clear = bench.open(data)
    assert (clear, opened.package_signed) == (b"x", False)


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where a segmented payload is changed."""

    name: str
    change: object


WHOLE = SEGMENT + 16
CUTS = [
    Cut("a bit of a segment", lambda data: bytes([data[0] ^ 1]) + data[1:]),
    Cut(
        "a bit of a segment's tag",
        lambda data: data[: WHOLE - 1] + bytes([data[WHOLE - 1] ^ 1]) + data[WHOLE:],
    ),
    Cut("two segments swapped", lambda data: data[WHOLE : 2 * WHOLE] + data[:WHOLE] + data[2 * WHOLE :]),
    Cut("the last segment left out", lambda data: data[: 2 * WHOLE]),
    Cut("the first segment left out", lambda data: data[WHOLE:]),
    Cut("a segment twice", lambda data: data[:WHOLE] + data),
    Cut("the last segment cut", lambda data: data[:-1]),
]


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.name)
def test_segments_that_are_changed_moved_or_missing_are_refused(bench_of, take, cut):
    bench = bench_of(SignatureScheme.ECDSA_P256)
    package = take(
        bench.seal(bytes(2 * SEGMENT + 5), signed=False, profile=profile_of(Cipher.AES_GCM_STREAM))
    )
    package.streams[0] = cut.change(package.streams[0])

    assert refusal(bench, package.join(), payload_signature=False) == "tag_mismatch"


@pytest.mark.parametrize("stream", [1, 2], ids=["salt", "prefix"])
def test_another_salt_or_prefix_is_refused(bench_of, take, stream):
    bench = bench_of(SignatureScheme.ECDSA_P256)
    package = take(bench.seal(b"x", signed=False, profile=RECOMMENDED))
    package.streams[stream] = bytes([package.streams[stream][0] ^ 1]) + package.streams[stream][1:]

    assert refusal(bench, package.join(), payload_signature=False) == "tag_mismatch"


def test_a_manifest_that_is_changed_shuts_the_segments_even_without_a_signature(bench_of, take):
    bench = bench_of(SignatureScheme.ECDSA_P256)
    package = take(bench.seal(b"x", signed=False, profile=RECOMMENDED))
    document = package.manifest()
    document["cp-vendor"] = "Vandal"

    assert refusal(bench, package.with_manifest(document).join(), payload_signature=False) == "tag_mismatch"


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (16, "stream 0 (payload), table entry at offset 16: expected 17 to 281543696187392 bytes, found 16"),
        (
            WHOLE + 16,
            (
                "stream 0 (payload), table entry at offset 16: "
                "expected a last segment of at least 17 bytes after 1 of 65552, found 16"
            ),
        ),
    ],
)
def test_a_segment_without_payload_is_malformed(bench_of, take, size, message):
    bench = bench_of(SignatureScheme.ECDSA_P256)
    package = take(bench.seal(b"x", signed=False, profile=profile_of(Cipher.AES_GCM_STREAM)))
    package.streams[0] = bytes(size)

    with pytest.raises(FormatError) as caught:
        inspect(package.join())
    assert str(caught.value) == message


@pytest.mark.parametrize("size", [1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT])
def test_segment_boundaries_round_trip(bench_of, size):
    bench = bench_of(SignatureScheme.ECDSA_P256)
    data = bench.seal(bytes(size), profile=profile_of(Cipher.AES_GCM_STREAM))

    assert inspect_package(io.BytesIO(data), len(data)).payload_size == size
    assert bench.open(data)[1] == bytes(size)
