"""Read any range of a payload in ``aes-gcm-stream`` without opening all of it (specification, section 5.1).

Each segment is checked before a byte of it is given out: it was sealed under the class key, stands in its own
place, and belongs to this manifest. What is *not* checked is the payload's and the package's signature, which
take the whole file: whoever holds the class key can make such a package. Verify once, then read at random::

    reader = SegmentReader(file, size, class_key=store.get)
    reader.read(1 << 30, 4096)
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, BinaryIO

from shared.cpk.encryption import segments_of
from shared.cpk.frame import read_at
from shared.cpk.opening import find_key, payload_nonce
from shared.cpk.package import inspect_package
from shared.cpk.schemes import TAG_SIZE, AesGcmStream
from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.cpk.opening import KeyReference
    from shared.types import Secret


class SegmentReader:
    """The payload of one package, read by offset.

    Args:
        file: The package, seekable.
        size: Its length in bytes.
        class_key: As for ``open_package``.

    Raises:
        FormatError: The package is malformed, or its payload has no segments.
        VerificationError: ``key_mismatch``; the key has another length than the manifest says.
        KeyUnavailable: The class key is not there.
    """

    def __init__(self, file: BinaryIO, size: int, *, class_key: Callable[[KeyReference], Secret]) -> None:
        package = inspect_package(file, size)
        scheme = package.manifest.payload.encryption
        if not isinstance(scheme, AesGcmStream):
            raise FormatError(f"manifest /payload/enc: expected aes-gcm-stream, found {scheme or 'none'}")
        self._file = file
        self._package = package
        self._segments = segments_of(
            scheme,
            find_key(scheme, class_key),
            payload_nonce(package, scheme),
            package.payload_size,
            hashlib.sha256(package.contents[package.frame.manifest_index]).digest(),
        )
        self._room = memoryview(bytearray(scheme.segment_size))

    @property
    def size(self) -> int:
        """Bytes of the payload in clear."""
        return self._package.payload_size

    def read(self, offset: int, count: int) -> bytes:
        """Return ``count`` bytes of the payload from ``offset``, fewer where it ends.

        Args:
            offset: From the payload's start, in bytes; behind its end nothing is read.
            count: How many bytes, at least 0; all of them are held in memory.

        Raises:
            ValueError: One of them is negative.
            FormatError: The file became shorter.
            VerificationError: ``tag_mismatch``; a segment does not hold.
        """
        if offset < 0 or count < 0:
            raise ValueError(f"expected offset and count of at least 0, found {offset} and {count}")
        end = min(offset + count, self.size)
        if offset >= end:
            return b""
        segment_size = self._segments.scheme.segment_size
        first, last = offset // segment_size, (end - 1) // segment_size
        clear = bytearray()
        for number in range(first, last + 1):
            start = number * segment_size
            segment = self._open(number)
            clear += segment[max(offset - start, 0) : end - start]
        return bytes(clear)

    def _open(self, number: int) -> memoryview:
        whole = self._segments.scheme.segment_size + TAG_SIZE
        place = number * whole
        stored = min(whole, self._package.stored_size - place)
        start = self._package.frame.file_offset(self._package.manifest.payload.data)
        data = read_at(self._file, start + place, stored, what=f"segment {number}")
        return self._room[: self._segments.open(number, memoryview(data), self._room)]
