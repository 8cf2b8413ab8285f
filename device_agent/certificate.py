"""The device certificate on disk, read again whenever the file changes: certificates are renewed at any time.

A file that is missing, unreadable or malformed leaves the last good certificate in use.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding

from shared.certificates import MAX_CHAIN_BYTES, leaf_public_key, load_certificates
from shared.errors import FormatError
from shared.twin.sections import MAX_PARTS, PART_LENGTH

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography import x509

MAX_TWIN_BYTES = PART_LENGTH * MAX_PARTS * 3 // 4
"""Longest chain that a twin can carry, in bytes of DER: base64 of it in parts."""

_log = logging.getLogger("device_agent")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCertificate:
    """A certificate chain as the twin carries it.

    Args:
        der: The certificates' DER one behind the other, leaf first.
        leaf_spki: The leaf's key, DER SubjectPublicKeyInfo.
        chain: The certificates, leaf first.
    """

    der: bytes
    leaf_spki: bytes
    chain: tuple[x509.Certificate, ...] = field(repr=False)

    @property
    def not_before(self) -> float:
        """When the leaf's validity begins, in Unix seconds."""
        return self.chain[0].not_valid_before_utc.timestamp()

    @property
    def not_after(self) -> float:
        """When it ends."""
        return self.chain[0].not_valid_after_utc.timestamp()


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
            with self._path.open("rb") as file:
                self.current = parse_certificate(file.read(MAX_CHAIN_BYTES + 1), where=str(self._path))
            self._seen, self._missing_told = seen, False
        except FormatError as error:
            self._seen = seen
            _log.error("certificate_invalid", extra={"reason": str(error)})
        except OSError as error:
            if not self._missing_told:
                _log.warning(
                    "certificate_unreadable", extra={"file": str(self._path), "reason": error.strerror}
                )
            self._seen, self._missing_told = None, True


def parse_certificate(data: bytes, *, where: str) -> DeviceCertificate:
    """Read a chain, leaf first.

    Raises:
        FormatError: It is none, or too long for a twin.
    """
    chain = load_certificates(data, where=where)
    der = b"".join(certificate.public_bytes(Encoding.DER) for certificate in chain)
    if len(der) > MAX_TWIN_BYTES:
        raise FormatError(f"{where}: expected at most {MAX_TWIN_BYTES} bytes of DER, found {len(der)}")
    return DeviceCertificate(der=der, leaf_spki=leaf_public_key(chain[0]), chain=chain)
