"""Properties of the package format: round trips, one kind of error for any bytes, changed bytes stay in."""

import contextlib
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.certificate_paths import TrustStore
from shared.cpk.frame import encode_frame, read_frame
from shared.cpk.manifest import Target, Version, encode_manifest, parse_manifest
from shared.cpk.opening import CHUNK, Requirements, inspect_package, open_package
from shared.cpk.sealing import ClassKey, Description, seal_package
from shared.cpk.signing_keys import KeySigner
from shared.errors import FormatError, KeyUnavailable, VerificationError
from shared.types import KeyName, Secret

NOW = datetime(2026, 11, 20, tzinfo=UTC)
START = datetime(2000, 1, 1, tzinfo=UTC)
KEY = Secret(bytes(range(32)))
VALID = sorted((Path(__file__).parents[1] / "vectors" / "cpk").glob("v*.cpk"))
SMALL = [path.read_bytes() for path in VALID if path.stat().st_size < 4096]

TEXTS = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=40)
NUMBERS = st.integers(0, 2**32 - 1)
DESCRIPTIONS = st.builds(
    Description,
    id=TEXTS.filter(bool),
    name=TEXTS,
    vendor=TEXTS,
    target=st.builds(Target, arch=TEXTS, os=TEXTS),
    version=st.builds(
        Version,
        major=NUMBERS,
        minor=NUMBERS,
        revision=NUMBERS,
        date=st.integers(0, 9_000_000_000_000_000).map(lambda micros: START + timedelta(microseconds=micros)),
    ),
)


@pytest.fixture(scope="module")
def signer():
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Signer")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return KeySigner.load(key, certificate.public_bytes(Encoding.PEM), where="signer")


def seal(payload, description, signer, *, key=KEY, version=None, parallel=None):
    output = io.BytesIO()
    seal_package(
        io.BytesIO(payload),
        len(payload),
        output,
        description=description,
        class_key=ClassKey(name=KeyName("k"), version=version, key=key),
        nonce=bytes(12),
        signer=signer,
        parallel=parallel,
    )
    return output.getvalue()


def open_signed(data, signer, *, key=KEY, package_signature=True, parallel=None):
    trust = TrustStore.from_pem(signer.certification.data, where="trust")
    clear = bytearray()
    opened = open_package(
        io.BytesIO(data),
        len(data),
        class_key=lambda _: key,
        trust=trust,
        at=NOW,
        requirements=Requirements(package_signature=package_signature),
        sink=clear.extend,
        parallel=parallel,
    )
    return opened, bytes(clear)


DESCRIPTION = Description(
    id="app",
    name="Application",
    vendor="Vendor",
    target=Target(arch="any", os="any"),
    version=Version(major=1, minor=0, revision=0, date=NOW),
)


@settings(max_examples=60, deadline=None)
@given(
    payload=st.binary(min_size=1, max_size=5000),
    description=DESCRIPTIONS,
    key=st.sampled_from([16, 24, 32]).flatmap(lambda size: st.binary(min_size=size, max_size=size)),
    version=st.none() | st.integers(1, 2**32 - 1),
)
def test_what_is_sealed_opens_as_it_was(signer, payload, description, key, version):
    data = seal(payload, description, signer, key=Secret(key), version=version, parallel=True)

    opened, clear = open_signed(data, signer, key=Secret(key), parallel=False)

    assert clear == payload
    assert opened.manifest.id == description.id
    assert opened.manifest.name == description.name
    assert opened.manifest.payload.version == description.version
    assert opened.manifest.payload.encryption.key_version == version
    assert inspect_package(io.BytesIO(data), len(data)).warnings == ()


@settings(max_examples=15, deadline=None)
@given(
    size=st.integers(-2, 2).map(lambda near: CHUNK + near) | st.integers(1, 6 * CHUNK), parallel=st.booleans()
)
def test_any_size_round_trips(signer, size, parallel):
    payload = (b"0123456789abcdef" * (size // 16 + 1))[:size]

    assert open_signed(seal(payload, DESCRIPTION, signer, parallel=parallel), signer)[1] == payload


@given(sizes=st.lists(st.integers(0, 300), min_size=2, max_size=64), data=st.data())
def test_frames_round_trip(sizes, data):
    index = data.draw(st.integers(0, len(sizes) - 1))
    encoded = encode_frame(sizes, manifest_index=index) + bytes(sum(sizes))

    frame = read_frame(io.BytesIO(encoded), len(encoded))

    assert [stream.size for stream in frame.streams] == sizes
    assert frame.manifest_index == index
    assert frame.end == len(encoded)


@given(st.sampled_from(SMALL))
def test_manifests_that_are_read_are_written_so_that_they_read_the_same(data):
    package = inspect_package(io.BytesIO(data), len(data))
    count = len(package.frame.streams)

    assert parse_manifest(encode_manifest(package.manifest), stream_count=count) == package.manifest


def read_or_malformed(data):
    """Let FormatError pass and nothing else."""
    with contextlib.suppress(FormatError):
        inspect_package(io.BytesIO(data), len(data))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_are_malformed_and_nothing_else(data):
    with pytest.raises(FormatError):
        inspect_package(io.BytesIO(data), len(data))


@settings(max_examples=400, deadline=None)
@given(
    base=st.sampled_from(SMALL),
    changes=st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.none() | st.integers(0, 4095),
)
def test_changed_packages_are_read_or_malformed_and_nothing_else(base, changes, cut):
    data = bytearray(base)
    for place, value in changes:
        data[place % len(data)] = value

    read_or_malformed(bytes(data[:cut]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    yield path
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for name, child in children:
        yield from places(child, (*path, name))


@settings(max_examples=400, deadline=None)
@given(base=st.sampled_from(SMALL), value=JSON, data=st.data())
def test_any_value_anywhere_in_a_manifest_is_read_or_malformed(base, value, data):
    package = inspect_package(io.BytesIO(base), len(base))
    document = json.loads(package.contents[package.frame.manifest_index])
    path = data.draw(st.sampled_from([path for path in places(document) if path]))
    place = document
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value

    with contextlib.suppress(FormatError):
        parse_manifest(json.dumps(document).encode(), stream_count=len(package.frame.streams))


@settings(max_examples=400, deadline=None)
@given(place=st.integers(min_value=0), bit=st.integers(0, 7))
def test_no_changed_bit_of_a_signed_package_is_released(signed_package, place, bit):
    signer, data = signed_package
    changed = bytearray(data)
    changed[place % len(data)] ^= 1 << bit

    with pytest.raises((FormatError, VerificationError, KeyUnavailable)):
        open_signed(bytes(changed), signer)


@pytest.fixture(scope="module")
def signed_package(signer):
    return signer, seal(b"payload " * 20, DESCRIPTION, signer)


def test_no_changed_byte_of_a_signed_package_is_released(signed_package):
    """Every byte once: there is neither gap nor trailing byte in what the writer writes."""
    signer, data = signed_package
    released = []
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]
        try:
            open_signed(changed, signer)
        except (FormatError, VerificationError, KeyUnavailable):
            continue
        released.append(place)

    assert released == []
