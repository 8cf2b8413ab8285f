"""Seal a package's payload anew, under another class key, without a clear byte outside memory.

The package is opened, and verified, on a thread of its own; its payload goes into sealing chunk by chunk.
Sealing asks for one byte more than the payload has before it signs anything, and gets an answer only when all
of the old package held: what does not hold is never signed again.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, BinaryIO, cast

from shared.cpk.opening import KeyReference, Requirements, Trust, open_package
from shared.cpk.package import inspect_package
from shared.cpk.planning import ClassKey, Description
from shared.cpk.profiles import REFERENCE, Profile
from shared.cpk.sealing import SealedPackage, seal_package
from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from shared.certificate_paths import TrustStore
    from shared.cpk.signing import Signer
    from shared.types import Secret


def rewrap_package(
    source: BinaryIO,
    size: int,
    output: BinaryIO,
    *,
    old_key: Callable[[KeyReference], Secret],
    trust: Trust | TrustStore,
    at: datetime,
    requirements: Requirements,
    class_key: ClassKey,
    nonce: bytes,
    signer: Signer | None,
    profile: Profile = REFERENCE,
    package_signature: bool = True,
) -> SealedPackage:
    """Write a package with the same payload and description under another class key.

    Args:
        source: The old package, seekable.
        size: Its length in bytes.
        output: Where the new one goes; worthless after an exception.
        old_key: Finds the old class key, as for ``open_package``.
        trust: Whose signatures on the old package are accepted.
        at: The time to judge certificates at, aware.
        requirements: What the old package must carry.
        class_key: The new class key.
        nonce: Fresh random bytes, as for ``seal_package``.
        signer: Signs the new package; ``None`` leaves it unsigned.
        profile: Which schemes the new package uses.
        package_signature: Whether the signer signs the package, too.

    Raises:
        FormatError: The old package is malformed, or a value does not fit.
        VerificationError: Something about the old package does not hold; nothing has been signed.
        KeyUnavailable: The old class key is not there.
    """
    package = inspect_package(source, size)
    manifest = package.manifest
    pipe = _Pipe()

    def give() -> None:
        opened = open_package(
            source,
            size,
            class_key=old_key,
            trust=trust,
            at=at,
            requirements=requirements,
            sink=pipe.put,
        )
        if opened.manifest != manifest:
            raise FormatError("package: its manifest changed while it was read")

    with pipe.filled_by(give):
        return seal_package(
            cast("BinaryIO", pipe),
            package.payload_size,
            output,
            description=Description(
                id=manifest.id,
                name=manifest.name,
                vendor=manifest.vendor,
                target=manifest.payload.target,
                version=manifest.payload.version,
            ),
            class_key=class_key,
            nonce=nonce,
            signer=signer,
            profile=profile,
            package_signature=package_signature,
        )


class _AbandonedError(Exception):
    """Nobody reads any more."""


class _Pipe:
    """Hands buffers from one thread to another, one at a time; a buffer stays the giver's own."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._chunk = memoryview(b"")
        self._ended = False
        self._abandoned = False
        self._error: Exception | None = None

    def put(self, chunk: memoryview) -> None:
        """Give a buffer, waiting until all of it has been taken."""
        with self._changed:
            self._chunk = chunk
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._abandoned or not self._chunk)
            if self._abandoned:
                raise _AbandonedError

    def readinto(self, buffer: memoryview, /) -> int:
        """Take bytes; 0 once the giver has ended well.

        Raises:
            Exception: What the giver ended with.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ended or bool(self._chunk))
            if self._error is not None:
                raise self._error
            count = min(len(buffer), len(self._chunk))
            buffer[:count] = self._chunk[:count]
            self._chunk = self._chunk[count:]
            self._changed.notify_all()
            return count

    @contextlib.contextmanager
    def filled_by(self, give: Callable[[], None]) -> Iterator[None]:
        """Run ``give`` on a thread of its own for as long as the block lasts."""
        thread = threading.Thread(target=self._run, args=(give,), name="open-package", daemon=True)
        thread.start()
        try:
            yield
        finally:
            with self._changed:
                self._abandoned = True
                self._changed.notify_all()
            thread.join()

    def _run(self, give: Callable[[], None]) -> None:
        error: Exception | None = None
        try:
            give()
        except _AbandonedError:
            pass
        except Exception as caught:  # noqa: BLE001 - the thread's outermost loop; raised where it is read
            error = caught
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify_all()
