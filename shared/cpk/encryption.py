"""The payload's ciphers, as transforms that are fed block by block (specification, section 5.1).

A cipher takes blocks of :attr:`block` bytes, the last one may be shorter, and needs :attr:`growth` bytes of
room beyond its input. AES-GCM and ChaCha20-Poly1305 have one tag for the whole payload, in a stream of its
own; it is known, and checked, at the end. Segments have a tag each: :mod:`shared.cpk.segment_cipher`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES, ChaCha20
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.poly1305 import Poly1305

from shared.cpk.pipeline import BLOCK, CIPHER_GROWTH
from shared.cpk.schemes import AesGcm, AesGcmStream, ChaCha20Poly1305, Encryption
from shared.cpk.segment_cipher import SegmentOpener, Segments, SegmentSealer, tag_mismatch

if TYPE_CHECKING:
    from shared.types import Secret

_POLY1305_BLOCK = 16
_CHACHA20_BLOCK = 64


class Sealer(Protocol):
    """Encrypts a payload."""

    @property
    def block(self) -> int:
        """Bytes of every block but the last."""

    @property
    def growth(self) -> int:
        """Bytes of room beyond the input."""

    def __call__(self, block: memoryview, room: memoryview, /) -> int:
        """Encrypt ``block`` into ``room``; return how many bytes were written."""

    def finish(self) -> bytes:
        """Return the payload's tag after the last block; empty where every segment has its own."""


class Opener(Protocol):
    """Decrypts a payload; attributes as for :class:`Sealer`."""

    @property
    def block(self) -> int:
        """Bytes of every stored block but the last."""

    @property
    def growth(self) -> int:
        """Bytes of room beyond the input."""

    def __call__(self, block: memoryview, room: memoryview, /) -> int:
        """Decrypt ``block`` into ``room``; return how many bytes were written.

        Raises:
            VerificationError: ``tag_mismatch``; a segment's tag does not hold.
        """

    def finish(self, tag: bytes) -> None:
        """Check the payload's tag after the last block.

        Raises:
            VerificationError: ``tag_mismatch``; whatever was given out is worthless.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadNonce:
    """What makes one payload's encryption its own; each part is empty where the scheme has none.

    Attributes:
        nonce: 12 bytes.
        salt: 32 bytes.
        prefix: 7 bytes.
    """

    nonce: bytes = b""
    salt: bytes = b""
    prefix: bytes = b""


def start_sealing(
    scheme: Encryption, key: Secret, nonce: PayloadNonce, *, payload_size: int, manifest_sha256: bytes
) -> Sealer:
    """Return what encrypts one payload.

    Args:
        scheme: From the manifest that is being written.
        key: The class key, of the scheme's strength.
        nonce: Fresh random bytes.
        payload_size: Bytes of the payload in clear.
        manifest_sha256: Digest of the manifest stream; bound by segmented payloads.
    """
    match scheme:
        case AesGcm():
            return _GcmSealer(key, nonce.nonce)
        case ChaCha20Poly1305():
            return _ChaChaSealer(key, nonce.nonce)
        case AesGcmStream():
            return SegmentSealer(segments_of(scheme, key, nonce, payload_size, manifest_sha256))


def start_opening(
    scheme: Encryption, key: Secret, nonce: PayloadNonce, *, payload_size: int, manifest_sha256: bytes
) -> Opener:
    """Return what decrypts one payload; arguments as for :func:`start_sealing`."""
    match scheme:
        case AesGcm():
            return _GcmOpener(key, nonce.nonce, scheme)
        case ChaCha20Poly1305():
            return _ChaChaOpener(key, nonce.nonce, scheme)
        case AesGcmStream():
            return SegmentOpener(segments_of(scheme, key, nonce, payload_size, manifest_sha256))


def segments_of(
    scheme: AesGcmStream, key: Secret, nonce: PayloadNonce, payload_size: int, manifest_sha256: bytes
) -> Segments:
    """Return the segments of one payload; arguments as for :func:`start_sealing`."""
    return Segments.of(
        scheme,
        key,
        salt=nonce.salt,
        prefix=nonce.prefix,
        count=scheme.segment_count(payload_size),
        associated=manifest_sha256,
    )


class _Context(Protocol):
    def update_into(self, data: memoryview, buf: memoryview) -> int: ...


class _GcmEncryptor(_Context, Protocol):
    def finalize(self) -> bytes: ...

    @property
    def tag(self) -> bytes: ...


class _GcmDecryptor(_Context, Protocol):
    def finalize_with_tag(self, tag: bytes) -> bytes: ...


class _GcmSealer:
    """AES-GCM over the whole payload."""

    block = BLOCK
    growth = CIPHER_GROWTH

    def __init__(self, key: Secret, nonce: bytes) -> None:
        cipher = Cipher(AES(key.reveal()), GCM(nonce))
        self._context = cast("_GcmEncryptor", cipher.encryptor())

    def __call__(self, block: memoryview, room: memoryview, /) -> int:
        return self._context.update_into(block, room)

    def finish(self) -> bytes:
        self._context.finalize()
        return self._context.tag


class _GcmOpener:
    """AES-GCM over the whole payload."""

    block = BLOCK
    growth = CIPHER_GROWTH

    def __init__(self, key: Secret, nonce: bytes, scheme: AesGcm) -> None:
        cipher = Cipher(AES(key.reveal()), GCM(nonce))
        self._context = cast("_GcmDecryptor", cipher.decryptor())
        self._scheme = scheme

    def __call__(self, block: memoryview, room: memoryview, /) -> int:
        return self._context.update_into(block, room)

    def finish(self, tag: bytes) -> None:
        try:
            self._context.finalize_with_tag(tag)
        except InvalidTag as error:
            raise tag_mismatch("payload", self._scheme) from error


class _ChaCha:
    """ChaCha20 and Poly1305 as RFC 8439, section 2.8, joins them; the library's own AEAD is one-shot."""

    block = BLOCK
    growth = CIPHER_GROWTH

    def __init__(self, key: Secret, nonce: bytes) -> None:
        # The counter stands in the first four bytes, little-endian: block 0 gives the Poly1305 key.
        context = Cipher(ChaCha20(key.reveal(), bytes(4) + nonce), mode=None).encryptor()
        self._poly1305 = Poly1305(context.update(bytes(_CHACHA20_BLOCK))[:32])
        self._context: _Context = context
        self._size = 0

    def _authenticate(self, ciphertext: memoryview) -> None:
        self._poly1305.update(ciphertext)
        self._size += len(ciphertext)

    def _end(self) -> Poly1305:
        self._poly1305.update(bytes(-self._size % _POLY1305_BLOCK))
        self._poly1305.update(bytes(8) + self._size.to_bytes(8, "little"))  # no associated data
        return self._poly1305


class _ChaChaSealer(_ChaCha):
    def __call__(self, block: memoryview, room: memoryview, /) -> int:
        written = self._context.update_into(block, room)
        self._authenticate(room[:written])
        return written

    def finish(self) -> bytes:
        return self._end().finalize()


class _ChaChaOpener(_ChaCha):
    def __init__(self, key: Secret, nonce: bytes, scheme: ChaCha20Poly1305) -> None:
        super().__init__(key, nonce)
        self._scheme = scheme

    def __call__(self, block: memoryview, room: memoryview, /) -> int:
        self._authenticate(block)
        return self._context.update_into(block, room)

    def finish(self, tag: bytes) -> None:
        try:
            self._end().verify(tag)
        except InvalidSignature as error:
            raise tag_mismatch("payload", self._scheme) from error
