"""Random access to a segmented payload: any range, each segment checked, nothing else read."""

import hashlib
import io
from datetime import UTC, datetime

import pytest

from shared.cpk.encryption import PayloadNonce, segments_of
from shared.cpk.frame import encode_frame
from shared.cpk.manifest import Target, Version, encode_manifest
from shared.cpk.planning import ClassKey, Description, plan_package
from shared.cpk.profiles import RECOMMENDED, REFERENCE, Cipher, Profile
from shared.cpk.schemes import SignatureScheme
from shared.cpk.segments import SegmentReader
from shared.errors import FormatError, VerificationError
from shared.types import KeyName, Secret

DESCRIPTION = Description(
    id="app",
    name="",
    vendor="",
    target=Target(arch="any", os="any"),
    version=Version(major=1, minor=0, revision=0, date=datetime(2026, 11, 20, tzinfo=UTC)),
)
SEGMENT = 1 << 16
PAYLOAD = bytes(number % 251 for number in range(3 * SEGMENT + 100))
PROFILE = Profile(name="test", cipher=Cipher.AES_GCM_STREAM, segment_size=SEGMENT, of_ciphertext=True)


@pytest.fixture
def bench(bench_of):
    return bench_of(SignatureScheme.ECDSA_P256)


@pytest.fixture
def sealed(bench):
    return bench.seal(PAYLOAD, profile=PROFILE)


def reader_of(data, *, file=None, key=None):
    key = key if key is not None else Secret(bytes(range(32)))
    return SegmentReader(file if file is not None else io.BytesIO(data), len(data), class_key=lambda _: key)


@pytest.mark.parametrize(
    ("offset", "count"),
    [
        (0, 1),
        (0, len(PAYLOAD)),
        (SEGMENT - 1, 2),
        (SEGMENT, SEGMENT),
        (10, 2 * SEGMENT),
        (3 * SEGMENT, 1000),
        (len(PAYLOAD) - 1, 5),
        (len(PAYLOAD), 5),
        (1 << 40, 5),
        (5, 0),
    ],
)
def test_any_range_is_read(sealed, offset, count):
    assert reader_of(sealed).read(offset, count) == PAYLOAD[offset : offset + count]


def test_size_is_the_payloads(sealed):
    assert reader_of(sealed).size == len(PAYLOAD)


def test_only_the_segments_that_are_asked_for_are_read(sealed):
    class Watched(io.BytesIO):
        most = 0

        def read(self, count=-1, /):
            self.most = max(self.most, count)
            return super().read(count)

    file = Watched(sealed)
    reader_of(sealed, file=file).read(SEGMENT + 5, 5)

    assert file.most == SEGMENT + 16


def test_a_changed_segment_is_refused_and_the_others_are_read(sealed, take):
    package = take(sealed)
    package.streams[0] = package.streams[0][: SEGMENT + 16] + b"\0" + package.streams[0][SEGMENT + 17 :]
    reader = reader_of(package.join())

    assert reader.read(0, SEGMENT) == PAYLOAD[:SEGMENT]
    with pytest.raises(VerificationError, match="payload, segment 1 of 4: its AES-256-GCM"):
        reader.read(SEGMENT, 1)


def test_what_cannot_be_read_at_random_is_told(sealed, bench_of):
    with pytest.raises(FormatError, match="/payload/enc: expected aes-gcm-stream, found AES-256-GCM"):
        reader_of(bench_of(SignatureScheme.RSA_PKCS1V15).seal(b"x", profile=REFERENCE))
    with pytest.raises(VerificationError, match="class key app-1: expected 256 bits"):
        reader_of(sealed, key=Secret(bytes(16)))
    with pytest.raises(ValueError, match="expected offset and count of at least 0, found -1 and 2"):
        reader_of(sealed).read(-1, 2)


class Imagined(io.RawIOBase):
    """A package of zeros that is longer than any test would write: segments are made when they are read."""

    def __init__(self, plan, nonce, payload_size):
        text = encode_manifest(plan.manifest)
        stored, *rest = plan.sizes
        self._head = encode_frame([*plan.sizes, len(text)], manifest_index=len(plan.sizes))
        self._tail = nonce.salt + nonce.prefix + bytes(sum(rest[2:])) + text
        self._segments = segments_of(
            plan.encryption, Secret(bytes(range(32))), nonce, payload_size, hashlib.sha256(text).digest()
        )
        self._last = payload_size - (self._segments.count - 1) * plan.encryption.segment_size
        self._end = len(self._head) + stored
        self.size = self._end + len(self._tail)
        self._at = 0

    def seek(self, offset, whence=0, /):
        self._at = offset
        return offset

    def read(self, count=-1, /):
        if self._at < len(self._head):
            return self._head[self._at : self._at + count]
        if self._at >= self._end:
            return self._tail[self._at - self._end :][:count]
        number, rest = divmod(self._at - len(self._head), self._segments.scheme.segment_size + 16)
        last = number == self._segments.count - 1
        assert rest == 0
        clear = memoryview(bytes(self._last if last else self._segments.scheme.segment_size))
        room = memoryview(bytearray(len(clear) + 16))
        return bytes(room[: self._segments.seal(number, clear, room)])


def test_a_payload_of_more_than_64_gibibytes_is_read_at_its_end():
    size = (65 << 30) + 3
    nonce = PayloadNonce(salt=bytes(32), prefix=bytes(7))
    plan = plan_package(
        size,
        description=DESCRIPTION,
        class_key=ClassKey(name=KeyName("k"), version=None, key=Secret(bytes(range(32)))),
        signer=None,
        profile=RECOMMENDED,
        package_signature=False,
    )
    file = Imagined(plan, nonce, size)

    reader = SegmentReader(file, file.size, class_key=lambda _: Secret(bytes(range(32))))

    assert reader.size == size
    assert reader.read(size - 5, 10) == bytes(5)
    assert reader.read((64 << 30) - 2, 4) == bytes(4)
