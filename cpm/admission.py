"""What is done and what is refused, as a table: operation by operation, for everything that it depends on.

A standing is one fact about the device, a class key, a package that is there, or a package that is offered.
Whoever finds a standing asks :func:`admit`; what the table does not list is refused as a defect. That a
release or a package verifies comes on top: it is not a matter of state.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import EdbError, FormatError, KeyUnavailable, NotFound, StorageError, VerificationError
from shared.wire.cpm_contract import CpmOperation

if TYPE_CHECKING:
    from collections.abc import Mapping


class Phase(enum.Enum):
    """Which contract the device is in; it goes forward once and never back."""

    UNRELEASED = "no release was applied yet"
    LATCHED = "a release was applied"


class DeviceKeyKind(enum.Enum):
    """What contract version 1 and the EDL's export can use."""

    RSA = "RSA device key"
    OTHER = "device key of another kind"


class KeyStanding(enum.Enum):
    """The class key that a package names."""

    HELD = "class key held"
    MISSING = "class key not held"
    EXPIRED = "class key's lease ended"
    REVOKED = "class key below its floor"


class PackageStanding(enum.Enum):
    """The package that a request names."""

    INSTALLED = "package installed"
    DAMAGED = "package's sealed file damaged"
    ABSENT = "package not installed"


class Offer(enum.Enum):
    """A package that verified, beside what the device knows of its id."""

    NEW = "new id"
    HIGHER = "version above all before"
    SAME = "version of before, same payload or none left"
    OTHER_PAYLOAD = "version of before, another payload"
    LOWER = "version below one before, even if that was uninstalled"
    UNSIGNED = "no package signature, on an id that had one"
    TOO_MANY = "one package, or one id ever seen, too many"


Standing = Phase | DeviceKeyKind | KeyStanding | PackageStanding | Offer


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """How a request is refused.

    Args:
        error: The branch of the error tree.
        code: The stable code.
        message: With places in braces for names.
        hint: What to do about it.
    """

    error: type[EdbError]
    code: str
    message: str
    hint: str | None = None

    def as_error(self, **names: object) -> EdbError:
        """Return the error, with names in its message."""
        return self.error(self.message.format(**names), code=self.code, hint=self.hint)


DAMAGED_FILE = Refusal(
    error=StorageError,
    code="storage_damaged",
    message="sealed file {file}: {reason}",
    hint="uninstall the package and install it again",
)
"""What reading a sealed file ends with wherever it turns out to be damaged."""

_ALWAYS: Mapping[Standing, Refusal | None] = {Phase.UNRELEASED: None, Phase.LATCHED: None}

_EXPORT: Mapping[Standing, Refusal | None] = {
    **_ALWAYS,
    DeviceKeyKind.RSA: None,
    DeviceKeyKind.OTHER: Refusal(
        error=FormatError,
        code="unsupported_operation",
        message="the device key is not RSA and has no PKCS #1 form",
        hint="ask for device_public_key instead",
    ),
}

_ABSENT = Refusal(error=NotFound, code="not_found", message="package {cp_id!r} is not installed")

_PAYLOAD: Mapping[Standing, Refusal | None] = {
    **_ALWAYS,
    # A lease and a floor end installing, not what is installed: that is what uninstalling is for.
    **dict.fromkeys(KeyStanding),
    PackageStanding.INSTALLED: None,
    PackageStanding.DAMAGED: DAMAGED_FILE,
    PackageStanding.ABSENT: _ABSENT,
}

TABLE: Mapping[CpmOperation, Mapping[Standing, Refusal | None]] = {
    CpmOperation.PING: _ALWAYS,
    CpmOperation.IS_OPERATION_SUPPORTED: _ALWAYS,
    CpmOperation.GET_DEVICE_PUBLIC_KEY_DATA_SIZE: _EXPORT,
    CpmOperation.EXPORT_DEVICE_PUBLIC_KEY: _EXPORT,
    CpmOperation.DEVICE_PUBLIC_KEY: _ALWAYS,
    CpmOperation.INSTALL_APPLICATION_KEY: {
        Phase.UNRELEASED: None,
        Phase.LATCHED: Refusal(
            error=VerificationError,
            code="rollback",
            message="a key without a release is no longer taken: this device has applied one",
        ),
        DeviceKeyKind.RSA: None,
        DeviceKeyKind.OTHER: Refusal(
            error=FormatError,
            code="unsupported_algorithm",
            message="contract version 1 wraps for RSA keys, and this device's is none",
        ),
    },
    CpmOperation.APPLY_RELEASE: _ALWAYS,
    CpmOperation.STATUS: _ALWAYS,
    CpmOperation.INSTALL: {
        **_ALWAYS,
        KeyStanding.HELD: None,
        KeyStanding.MISSING: Refusal(
            error=KeyUnavailable,
            code="key_unavailable",
            message="class key {name}: this device does not hold {which} of it",
        ),
        KeyStanding.EXPIRED: Refusal(
            error=KeyUnavailable, code="key_expired", message="class key {name}: its lease has ended"
        ),
        KeyStanding.REVOKED: Refusal(
            error=KeyUnavailable,
            code="key_revoked",
            message="class key {name}: {which} is revoked, the lowest allowed is {floor}",
            hint="build the package again under the current version",
        ),
        Offer.NEW: None,
        Offer.HIGHER: None,
        Offer.SAME: None,
        Offer.OTHER_PAYLOAD: Refusal(
            error=VerificationError,
            code="rollback",
            message="package {cp_id}: version {version} is installed with another payload",
            hint="give the new payload a higher version",
        ),
        Offer.LOWER: Refusal(
            error=VerificationError,
            code="rollback",
            message="package {cp_id}: expected version {floor} or above, found {version}",
        ),
        Offer.UNSIGNED: Refusal(
            error=VerificationError,
            code="package_unsigned",
            message="package {cp_id}: expected a signature over the whole package as before, found none",
        ),
        Offer.TOO_MANY: Refusal(
            error=StorageError,
            code="storage_full",
            message="package {cp_id}: this cpm has as many packages, or knows as many ids, as it can",
            hint="uninstall a package; ids and their version floors are never forgotten",
        ),
    },
    CpmOperation.LIST: _ALWAYS,
    CpmOperation.UNINSTALL: {
        **_ALWAYS,
        PackageStanding.INSTALLED: None,
        PackageStanding.DAMAGED: None,
        PackageStanding.ABSENT: _ABSENT,
    },
    CpmOperation.RUN: _PAYLOAD,
    CpmOperation.STREAM: _PAYLOAD,
}
"""Whole for every operation, and for every kind of standing that it depends on."""


def admit(operation: CpmOperation, standing: Standing, **names: object) -> None:
    """Let an operation pass in a standing, or refuse it.

    Args:
        operation: What is asked for.
        standing: What was found.
        names: For the message.

    Raises:
        EdbError: What the table says.
    """
    refusal = TABLE[operation][standing]
    if refusal is not None:
        raise refusal.as_error(**names)
