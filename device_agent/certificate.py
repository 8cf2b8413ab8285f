"""The device certificate on disk, read again whenever the file changes: certificates are renewed at any time.

A file that is missing, unreadable or malformed leaves the last good certificate in use.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.errors import FormatError, TransportError
from shared.twin.sections import MAX_PARTS, PART_LENGTH

if TYPE_CHECKING:
    from pathlib import Path

MAX_TWIN_BYTES = PART_LENGTH * MAX_PARTS * 3 // 4
"""Longest chain that a twin can carry, in bytes of DER: base64 of it in parts."""

MAX_FILE_BYTES = 64 * 1024
"""Longest file of certificates, PEM or DER."""

_log = logging.getLogger("device_agent")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCertificate:
    """A certificate chain as the twin carries it.

    Args:
        der: The certificates' DER one behind the other, leaf first.
        pem: The same as PEM.
        leaf_spki: The leaf's key, DER SubjectPublicKeyInfo.
        device_id: Whom the leaf names, if anybody.
        not_before: When the leaf's validity begins, in Unix seconds.
        not_after: When it ends.
    """

    der: bytes
    pem: bytes = field(repr=False)
    leaf_spki: bytes
    device_id: str | None
    not_before: float
    not_after: float


class CertificateFile:
    """The file that holds the device certificate, PEM or DER, leaf first.

    Args:
        path: Where it is; None if the device has no certificate.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._missing_told = False
        self.current: DeviceCertificate | None = None

    @property
    def path(self) -> Path | None:
        """Where it is."""
        return self._path

    def refresh(self) -> None:
        """Read the file if it is not the one that was read last; tell of a fault once."""
        if self._path is None:
            return
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen == self._seen:
                return
            # Few files are ever new, and few agents have none.
            from device_agent.certificate_reader import read_certificate  # noqa: PLC0415

            with self._path.open("rb") as file:
                self.current = read_certificate(file.read(MAX_FILE_BYTES + 1), where=str(self._path))
            self._seen, self._missing_told = seen, False
        except FormatError as error:
            self._seen = seen
            _log.error("certificate_invalid", extra={"reason": str(error)})
        except (OSError, TransportError) as error:
            if not self._missing_told:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                _log.warning("certificate_unreadable", extra={"file": str(self._path), "reason": reason})
            self._seen, self._missing_told = None, True
