"""Installed payloads at rest: files sealed in 1 MiB segments (the STREAM construction).

A file is a header and then segments. The header is 8 bytes magic, u32 segment size, 7 bytes nonce prefix.
Each segment is AES-256-GCM over at most a MiB of payload, under the file's own random key, which rests in the
sealed state and nowhere else. Its nonce is prefix ‖ u32 counter ‖ last flag (0 or 1), its associated data the
header; integers are big-endian. So segments cannot be changed, swapped, dropped or cut off, nor files
exchanged, without a tag failing, and a file whose key is gone from the state can be read by nobody.

Hoang, Reyhanitabar, Rogaway, Vizár: Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance,
2015.

File names are random and are in the state; a package's id never becomes a path. A file that no state refers
to is what a crash left behind, and is removed at the next start.

The folder has a quota. A file's whole length is reserved before its first byte is written; drafts count like
finished files.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import secrets
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cpm.admission import DAMAGED_FILE
from cpm.files import PRIVATE_FILE, prepare_folder, storage_errors, sync_folder, write_all
from cpm.room import Room
from shared.errors import StorageError
from shared.types import Secret

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path
    from types import TracebackType

    from shared.errors import EdbError

SEGMENT_BYTES: Final = 1 << 20
"""Payload bytes in every segment but the last."""

TAG_BYTES: Final = 16
KEY_BYTES: Final = 32

_MAGIC = b"CPMSEAL1"
_PREFIX_BYTES = 7
_HEADER = struct.Struct(f">8sI{_PREFIX_BYTES}s")
_NONCE = struct.Struct(f">{_PREFIX_BYTES}sIB")
_FILE_NAME = re.compile(r"[0-9a-f]{32}")
_DRAFT = ".part"


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedFile:
    """How to find and open a sealed file.

    Args:
        name: Its name in the packages folder, 32 hex digits.
        key: Its own key, 32 bytes.
        size: Payload bytes.
    """

    name: str
    key: Secret
    size: int


class SealedStore:
    """The packages folder.

    Args:
        folder: The folder; made if it is missing.
        quota: Most bytes that its files may have together; None for no limit but the disk's. What is there
            already stays, even beyond it.

    Raises:
        StorageError: Others may write to it, or the disk refused.
    """

    def __init__(self, folder: Path, *, quota: int | None = None) -> None:
        prepare_folder(folder)
        self._folder = folder
        self._room = Room(quota)
        with storage_errors(f"cannot read {folder}"):
            self._room.count(sum(path.lstat().st_size for path in self._files()))

    @property
    def used(self) -> int:
        """Bytes of all files, drafts with all that they will need."""
        return self._room.used

    @property
    def quota(self) -> int | None:
        """Most bytes of all files together; None for no limit but the disk's."""
        return self._room.quota

    def create(self, size: int = 0) -> SealedWriter:
        """Start a new sealed file; nobody sees it before :meth:`SealedWriter.finish`.

        Args:
            size: Payload bytes that are expected; room for them is reserved. More are reserved as they come.

        Raises:
            StorageError: ``storage_full`` if that is beyond the quota, or the disk refused.
        """
        return SealedWriter(self._folder, self._room, size)

    def open(self, sealed: SealedFile) -> SealedReader:
        """Open a sealed file for reading; it stays readable if it is removed meanwhile.

        Raises:
            StorageError: ``storage_damaged`` if it is missing, has another length, or another header.
        """
        path = self._folder / sealed.name
        with storage_errors(f"cannot open sealed file {sealed.name}"):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            except FileNotFoundError as error:
                raise _damaged(sealed.name, "it is missing") from error
        try:
            return SealedReader(fd, sealed)
        except BaseException:
            os.close(fd)
            raise

    def same_payload(self, one: SealedFile, other: SealedFile) -> bool:
        """Whether two files hold the same payload; both are read to the first difference.

        Raises:
            StorageError: ``storage_damaged``, or the disk refused.
        """
        if one.size != other.size:
            return False
        with self.open(one) as left, self.open(other) as right:
            return all(
                hmac.compare_digest(*pair) for pair in zip(left.segments(), right.segments(), strict=True)
            )

    def is_intact(self, sealed: SealedFile) -> bool:
        """Whether the file is there with its length; its content is checked when it is read."""
        try:
            return (self._folder / sealed.name).stat().st_size == sealed_size(sealed.size)
        except OSError:
            return False

    def remove(self, name: str) -> None:
        """Remove a file, if it is there. What cannot be removed now goes at the next start."""
        _remove(self._folder / name, self._room)

    def remove_others(self, keep: Collection[str]) -> int:
        """Remove what no state refers to.

        Args:
            keep: Names that stay.

        Returns:
            How many files were removed.

        Raises:
            StorageError: The disk refused.
        """
        with storage_errors(f"cannot tidy {self._folder}"):
            others = [path for path in self._files() if path.name not in keep]
            for path in others:
                size = path.lstat().st_size
                path.unlink()
                self._room.give_back(size)
            sync_folder(self._folder)
        return len(others)

    def _files(self) -> list[Path]:
        return [path for path in self._folder.iterdir() if _is_ours(path.name)]


class SealedWriter:
    """Seals a payload of any length into a file; used as a context, it leaves nothing behind unless finished.

    Args:
        folder: The packages folder.
        room: Where its bytes are reserved.
        size: Payload bytes that are expected.

    Raises:
        StorageError: ``storage_full``, or the disk refused.
    """

    def __init__(self, folder: Path, room: Room, size: int) -> None:
        self._folder = folder
        self._room = room
        self._name = secrets.token_hex(16)
        self._path = folder / (self._name + _DRAFT)
        self._key = Secret(os.urandom(KEY_BYTES))
        self._cipher = AESGCM(self._key.reveal())
        self._prefix = os.urandom(_PREFIX_BYTES)
        self._header = _HEADER.pack(_MAGIC, SEGMENT_BYTES, self._prefix)
        self._segment = bytearray(SEGMENT_BYTES)
        self._sealed = bytearray(SEGMENT_BYTES + TAG_BYTES)
        self._filled = 0
        self._count = 0
        self._size = 0
        self._fd = -1
        self._reserved = 0
        self._reserve(size)
        try:
            with storage_errors("cannot start a sealed file"):
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
                write_all(self._fd, self._header)
        except StorageError:
            self._discard()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            self._discard()

    def write(self, payload: memoryview) -> None:
        """Seal more of the payload.

        Raises:
            StorageError: ``storage_full`` or ``storage_failed``.
        """
        self._size += len(payload)
        self._reserve(self._size)
        while payload:
            if self._filled == SEGMENT_BYTES:  # a full segment waits until it is known not to be the last
                self._seal_segment(last=False)
            part = payload[: SEGMENT_BYTES - self._filled]
            self._segment[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            payload = payload[len(part) :]

    def finish(self) -> SealedFile:
        """Seal the last segment and make the file last under its name.

        Raises:
            StorageError: ``storage_full`` or ``storage_failed``; leaving the context removes what there is.
        """
        self._seal_segment(last=True)
        with storage_errors("cannot finish a sealed file"):
            os.fsync(self._fd)
            self._path = self._path.rename(self._folder / self._name)
            sync_folder(self._folder)
        os.close(self._fd)
        self._fd = -1
        self._room.give_back(self._reserved - sealed_size(self._size))
        return SealedFile(name=self._name, key=self._key, size=self._size)

    def _seal_segment(self, *, last: bool) -> None:
        nonce = _NONCE.pack(self._prefix, self._count, last)
        plain = memoryview(self._segment)[: self._filled]
        sealed = memoryview(self._sealed)[: self._filled + TAG_BYTES]
        self._cipher.encrypt_into(nonce, plain, self._header, sealed)
        with storage_errors("cannot write a sealed file"):
            write_all(self._fd, sealed)
        self._count += 1
        self._filled = 0

    def _reserve(self, size: int) -> None:
        more = sealed_size(size) - self._reserved
        if more > 0:
            self._room.take(more)
            self._reserved += more

    def _discard(self) -> None:
        written = 0
        if self._fd >= 0:
            written = os.fstat(self._fd).st_size
            os.close(self._fd)
            self._fd = -1
        self._room.give_back(self._reserved - written)  # what was written is free once it is removed
        _remove(self._path, self._room)


class SealedReader:
    """Reads a sealed file; a context that closes it.

    Args:
        fd: The file; owned by the reader once it is made.
        sealed: What it must be.

    Raises:
        StorageError: ``storage_damaged``; it has another length, or another header.
    """

    def __init__(self, fd: int, sealed: SealedFile) -> None:
        self._sealed = sealed
        found = os.fstat(fd).st_size
        if found != sealed_size(sealed.size):
            raise _damaged(sealed.name, f"expected {sealed_size(sealed.size)} bytes, found {found}")
        self._header = os.pread(fd, _HEADER.size, 0)
        magic, segment, self._prefix = _HEADER.unpack(self._header)
        if (magic, segment) != (_MAGIC, SEGMENT_BYTES):
            raise _damaged(sealed.name, "another header")
        self._fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def segments(self) -> Iterator[bytes]:
        """Yield the payload, at most a MiB at a time; each part is authentic when it is yielded.

        Raises:
            StorageError: ``storage_damaged``; the parts before are worth nothing either.
        """
        cipher = AESGCM(self._sealed.key.reveal())
        count = _segment_count(self._sealed.size)
        for number in range(count):
            offset = _HEADER.size + number * (SEGMENT_BYTES + TAG_BYTES)
            nonce = _NONCE.pack(self._prefix, number, number == count - 1)
            with storage_errors(f"cannot read sealed file {self._sealed.name}"):
                sealed = os.pread(self._fd, SEGMENT_BYTES + TAG_BYTES, offset)
            try:
                yield cipher.decrypt(nonce, sealed, self._header)
            except (InvalidTag, ValueError) as error:
                raise _damaged(self._sealed.name, f"segment {number} does not open") from error


def sealed_size(size: int) -> int:
    """Return the bytes of a sealed file that holds ``size`` bytes of payload."""
    return _HEADER.size + size + _segment_count(size) * TAG_BYTES


def _segment_count(size: int) -> int:
    return max(1, -(-size // SEGMENT_BYTES))


def _remove(path: Path, room: Room) -> None:
    with contextlib.suppress(OSError):
        size = path.lstat().st_size
        path.unlink()
        room.give_back(size)


def _is_ours(name: str) -> bool:
    return _FILE_NAME.fullmatch(name.removesuffix(_DRAFT)) is not None


def _damaged(name: str, reason: str) -> EdbError:
    return DAMAGED_FILE.as_error(file=name, reason=reason)
