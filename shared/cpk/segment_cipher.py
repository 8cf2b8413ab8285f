"""AES-GCM in segments: the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár (specification 5.1).

Every segment has its own tag, which is checked before a byte of it is given out. Its nonce says where it
belongs and whether it is the last one, its associated data which manifest it belongs to::

    nonce of segment i = prefix (7) || i as u32, big-endian || 01 if it is the last one, else 00
    key                = HKDF-SHA256(class key, salt = salt stream, info = "CPK-STREAM-v1")
    associated data    = SHA-256 of the manifest stream
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.cpk.pipeline import BLOCK
from shared.cpk.schemes import TAG_SIZE, AesGcmStream, Encryption
from shared.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.types import Secret

HKDF_INFO = b"CPK-STREAM-v1"
"""Tells the keys of segmented payloads from whatever else is derived from a class key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """The segments of one payload: each can be sealed and opened by itself.

    Attributes:
        cipher: AES-GCM under the package's derived key.
        scheme: The manifest's scheme.
        prefix: 7 bytes that every nonce begins with.
        count: How many segments there are.
        associated: Associated data of every segment.
    """

    cipher: AESGCM
    scheme: AesGcmStream
    prefix: bytes
    count: int
    associated: bytes

    @classmethod
    def of(
        cls, scheme: AesGcmStream, key: Secret, *, salt: bytes, prefix: bytes, count: int, associated: bytes
    ) -> Segments:
        """Derive the package's key from the class key (RFC 5869)."""
        derivation = HKDF(
            algorithm=hashes.SHA256(), length=scheme.key_strength // 8, salt=salt, info=HKDF_INFO
        )
        cipher = AESGCM(derivation.derive(key.reveal()))
        return cls(cipher=cipher, scheme=scheme, prefix=prefix, count=count, associated=associated)

    def seal(self, number: int, block: memoryview, room: memoryview) -> int:
        """Encrypt segment ``number`` into ``room``, its tag behind it; return how many bytes were written."""
        room = room[: len(block) + TAG_SIZE]
        return self.cipher.encrypt_into(self._nonce(number), block, self.associated, room)

    def open(self, number: int, block: memoryview, room: memoryview) -> int:
        """Decrypt segment ``number``, which ends with its tag, into ``room``.

        Raises:
            VerificationError: ``tag_mismatch``; its tag does not hold, or it is not this segment.
        """
        room = room[: len(block) - TAG_SIZE]
        try:
            return self.cipher.decrypt_into(self._nonce(number), block, self.associated, room)
        except InvalidTag as error:
            where = f"payload, segment {number} of {self.count}"
            raise tag_mismatch(where, self.scheme) from error

    def _nonce(self, number: int) -> bytes:
        last = b"\1" if number == self.count - 1 else b"\0"
        return self.prefix + number.to_bytes(4, "big") + last


class _SegmentCipher:
    """Takes segments in their order, as many at a time as make up a block."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._number = 0
        self._at_once = BLOCK // segments.scheme.segment_size

    def _each(
        self,
        block: memoryview,
        room: memoryview,
        size: int,
        work: Callable[[int, memoryview, memoryview], int],
    ) -> int:
        written = 0
        for start in range(0, len(block), size):
            written += work(self._number, block[start : start + size], room[written:])
            self._number += 1
        return written


class SegmentSealer(_SegmentCipher):
    """Seals segments in their order; a ``Sealer`` of :mod:`shared.cpk.encryption`."""

    def __init__(self, segments: Segments) -> None:
        super().__init__(segments)
        self._size = segments.scheme.segment_size
        self.block = self._at_once * self._size
        self.growth = self._at_once * TAG_SIZE

    def __call__(self, block: memoryview, room: memoryview, /) -> int:
        """Encrypt the segments of ``block`` into ``room``; return how many bytes were written."""
        return self._each(block, room, self._size, self._segments.seal)

    def finish(self) -> bytes:
        """Return nothing: every segment has its own tag."""
        return b""


class SegmentOpener(_SegmentCipher):
    """Opens segments in their order; an ``Opener`` of :mod:`shared.cpk.encryption`."""

    growth = 0

    def __init__(self, segments: Segments) -> None:
        super().__init__(segments)
        self._size = segments.scheme.segment_size + TAG_SIZE
        self.block = self._at_once * self._size

    def __call__(self, block: memoryview, room: memoryview, /) -> int:
        """Decrypt the segments of ``block`` into ``room``; return how many bytes were written.

        Raises:
            VerificationError: ``tag_mismatch``; a segment does not hold.
        """
        return self._each(block, room, self._size, self._segments.open)

    def finish(self, tag: bytes) -> None:
        """Do nothing: the last segment's flag has shown that none is missing."""


def tag_mismatch(where: str, scheme: Encryption) -> VerificationError:
    """Return the error for a tag that does not hold, of a segment or of a whole payload."""
    return VerificationError(
        f"{where}: its {scheme} tag does not hold under class key {scheme.key_name}",
        code="tag_mismatch",
        hint="the package was changed, or it was sealed under another key or key version",
    )
