"""The rules for packages, as functions from one state to the next, and how a passed file is read.

What the format leaves open is closed here as far as it goes: a version never falls, and an id that once came
with a signature over the whole package needs one from then on. Without such a signature the manifest is not
authenticated: its id and version are what the package claims.
"""

from __future__ import annotations

import fcntl
import io
import os
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

from cpm.admission import Offer, PackageStanding, admit
from cpm.sealed_store import SealedFile
from cpm.state import InstalledPackage
from shared.errors import FormatError
from shared.wire.cpm_contract import CpmOperation

if TYPE_CHECKING:
    from cpm.state import HeldKey, State, Version
    from shared.cpk.opening import OpenedPackage
    from shared.types import KeyName

MAX_PACKAGES = 256
"""Most packages that are installed at a time."""

MAX_PACKAGE_IDS = 4096
"""Most ids whose version floors are remembered; they are never forgotten."""


class PassedFile(io.RawIOBase):
    """A package file that a client passed, read by position: the client's own seeks do not disturb.

    The client may write to it meanwhile. What is verified is what was read.

    Args:
        fd: Its descriptor; the caller closes it.

    Raises:
        FormatError: ``request_invalid``; it is no regular file that is open for reading.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        status = os.fstat(fd)
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        readable = flags & os.O_ACCMODE != os.O_WRONLY and not flags & os.O_PATH
        if not stat.S_ISREG(status.st_mode) or not readable:
            raise FormatError(
                "install: expected a regular file that is open for reading", code="request_invalid"
            )
        self.size = status.st_size
        self._fd = fd
        self._position = 0

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it has positions."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a position; from the end means from the size at the start."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override] # typeshed's Buffer is 3.12's
        """Fill ``buffer`` as far as the file goes.

        Raises:
            FormatError: The file system gave an error: the file is the client's, and so is its fault.
        """
        try:
            count = os.preadv(self._fd, [buffer], self._position)
        except OSError as error:
            raise FormatError(f"install: the passed file cannot be read: {error.strerror}") from error
        self._position += count
        return count


def describe(
    opened: OpenedPackage, sealed: SealedFile, *, key_name: KeyName, key: HeldKey
) -> InstalledPackage:
    """Return the record of a package that was verified and sealed.

    Args:
        opened: What was verified.
        sealed: Where its payload is.
        key_name: The class key it was sealed under.
        key: The version of it.
    """
    manifest = opened.manifest
    version = manifest.payload.version
    return InstalledPackage(
        name=manifest.name,
        vendor=manifest.vendor,
        version=(version.major, version.minor, version.revision),
        key_name=key_name,
        key_version=key.version,
        package_signed=opened.package_signed,
        file=sealed.name,
        file_key=sealed.key,
        size=sealed.size,
    )


def sealed_file(package: InstalledPackage) -> SealedFile:
    """Return where an installed package's payload is."""
    return SealedFile(name=package.file, key=package.file_key, size=package.size)


def check_acceptable(state: State, cp_id: str, package: InstalledPackage) -> None:
    """Refuse a package that would take its id back, or is one too many.

    Raises:
        VerificationError: ``rollback`` for a version below the highest that was ever installed;
            ``package_unsigned`` for a package without a signature over the whole where there was one before.
        StorageError: ``storage_full``; see :data:`MAX_PACKAGES` and :data:`MAX_PACKAGE_IDS`.
    """
    floor = state.package_floors.get(cp_id, package.version)
    admit(
        CpmOperation.INSTALL,
        _offer(state, cp_id, package, floor),
        cp_id=cp_id,
        floor=text_of(floor),
        version=text_of(package.version),
    )


def _offer(state: State, cp_id: str, package: InstalledPackage, floor: Version) -> Offer:
    known = cp_id in state.package_floors
    if package.version < floor:
        return Offer.LOWER
    if cp_id in state.signed_packages and not package.package_signed:
        return Offer.UNSIGNED
    if cp_id not in state.packages and len(state.packages) >= MAX_PACKAGES:
        return Offer.TOO_MANY
    if not known:
        return Offer.NEW if len(state.package_floors) < MAX_PACKAGE_IDS else Offer.TOO_MANY
    return Offer.HIGHER if package.version > floor else Offer.SAME


def same_version_installed(state: State, cp_id: str, package: InstalledPackage) -> InstalledPackage | None:
    """Return the installed package of the same id and version, if there is one."""
    installed = state.packages.get(cp_id)
    return installed if installed is not None and installed.version == package.version else None


def with_package(state: State, cp_id: str, package: InstalledPackage) -> State:
    """Return the state with the package installed in place of any other of its id."""
    signed = {cp_id} if package.package_signed else set()
    return replace(
        state,
        packages={**state.packages, cp_id: package},
        package_floors={**state.package_floors, cp_id: package.version},
        signed_packages=state.signed_packages | signed,
    )


def without_package(state: State, cp_id: str) -> State:
    """Return the state without the package; its floor and its need for a signature stay.

    Raises:
        NotFound: It is not installed.
    """
    find_package(state, cp_id, CpmOperation.UNINSTALL)
    return replace(
        state, packages={other: package for other, package in state.packages.items() if other != cp_id}
    )


def find_package(state: State, cp_id: str, operation: CpmOperation = CpmOperation.RUN) -> InstalledPackage:
    """Return an installed package for an operation that needs it.

    Raises:
        NotFound: It is not installed.
    """
    if cp_id not in state.packages:
        admit(operation, PackageStanding.ABSENT, cp_id=cp_id[:256])
    return state.packages[cp_id]


def text_of(version: Version) -> str:
    """Return a version as it is shown: ``1.2.3``."""
    return ".".join(map(str, version))
