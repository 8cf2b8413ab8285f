"""Value types that cannot be wrong: parsed once at the edge, then trusted.

Names follow ``docs/spec/key-sharing-protocol.md``, section 1.
"""

from __future__ import annotations

import enum
import re
from typing import NewType, NoReturn

from shared.errors import FormatError

KeyName = NewType("KeyName", str)
"""Name of a class key: 1 to 64 characters of ``A-Z a-z 0-9 _ -``, the first one a letter or digit."""

DeviceId = NewType("DeviceId", str)
"""IoT Hub device id, or ``device/module`` for an Edge module."""

Audience = NewType("Audience", str)
"""The deployment's id: 1 to 64 printable ASCII characters without space."""

Fingerprint = NewType("Fingerprint", bytes)
"""SHA-256 over a DER SubjectPublicKeyInfo, 32 bytes."""

_KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_AUDIENCE = re.compile(r"[\x21-\x7e]{1,64}")
# IoT Hub's own grammar for device and module ids (128 characters of a fixed ASCII set).
_HUB_ID = r"[A-Za-z0-9\-:.+%_#*?!(),=@;$']{1,128}"
_DEVICE_ID = re.compile(rf"{_HUB_ID}(/{_HUB_ID})?")

MAX_KEY_VERSION = 2**32 - 1
"""Versions of a class key are 1, 2, 3 … and travel as u32."""


def parse_key_name(value: object, *, where: str) -> KeyName:
    """Read a class key's name.

    Raises:
        FormatError: ``name_invalid``, naming ``where``.
    """
    if isinstance(value, str) and _KEY_NAME.fullmatch(value):
        return KeyName(value)
    raise FormatError(
        f"{where}: expected a key name of 1 to 64 characters A-Z a-z 0-9 _ -, the first a letter or digit; "
        f"found {_shown(value)}",
        code="name_invalid",
    )


def parse_device_id(value: object, *, where: str) -> DeviceId:
    """Read a device id, or ``device/module``.

    Raises:
        FormatError: It is not an id that IoT Hub could have given.
    """
    if isinstance(value, str) and _DEVICE_ID.fullmatch(value):
        return DeviceId(value)
    raise FormatError(f"{where}: expected an IoT Hub device id or device/module, found {_shown(value)}")


def parse_audience(value: object, *, where: str) -> Audience:
    """Read a deployment's id.

    Raises:
        FormatError: It is not 1 to 64 printable ASCII characters without space.
    """
    if isinstance(value, str) and _AUDIENCE.fullmatch(value):
        return Audience(value)
    raise FormatError(
        f"{where}: expected 1 to 64 printable ASCII characters without space, found {_shown(value)}"
    )


def _shown(value: object) -> str:
    """Return a short picture of an untrusted value: its text if it is a string, else only its type."""
    if isinstance(value, str):
        return repr(value if len(value) <= 64 else value[:64] + "…")  # noqa: PLR2004 - a display limit
    return type(value).__name__


class WrapAlgorithm(enum.Enum):
    """How a class key is wrapped for one public key (protocol section 3)."""

    RSA_OAEP_256 = "RSA-OAEP-256"
    RSA1_5 = "RSA1_5"
    HPKE_P256 = "HPKE-P256"
    HPKE_X25519 = "HPKE-X25519"

    @property
    def cose(self) -> int:
        """The COSE algorithm identifier in a release (protocol section 4)."""
        return _COSE[self]

    @classmethod
    def from_cose(cls, identifier: int) -> WrapAlgorithm:
        """Return the algorithm with this COSE identifier.

        Raises:
            FormatError: ``unsupported_algorithm``.
        """
        for algorithm, number in _COSE.items():
            if number == identifier:
                return algorithm
        raise FormatError(
            f"COSE algorithm {identifier} wraps no class key known here", code="unsupported_algorithm"
        )


_COSE = {
    WrapAlgorithm.RSA_OAEP_256: -41,
    WrapAlgorithm.RSA1_5: -65537,
    WrapAlgorithm.HPKE_P256: -65538,
    WrapAlgorithm.HPKE_X25519: -65539,
}


class Secret:
    """Key material in memory: shows as ``***``, compares in no way, does not pickle, is never formatted.

    Args:
        value: The bytes; ask for them with :meth:`reveal`, as late as can be.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """Return the bytes."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, _spec: str) -> str:
        return "***"

    def __eq__(self, _other: object) -> NoReturn:
        raise TypeError("secrets are compared with hmac.compare_digest over their revealed bytes")

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret does not pickle")
