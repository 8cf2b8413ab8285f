"""Key check values: how a device shows which class key it holds without showing the key (protocol section 4).

The context is part of the derivation, so equal keys give unequal values on two devices, and a value seen in
one twin says nothing about another's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

if TYPE_CHECKING:
    from shared.keys.wrapping import WrapContext
    from shared.types import Secret

KCV_LABEL: Final = b"CPK-KCV-v2\0"
"""What a KCV's HKDF ``info`` begins with."""

KCV_BYTES: Final = 16
"""Length of a key check value."""


def key_check_value(key: Secret, *, context: WrapContext) -> bytes:
    """Return the key's check value: HKDF-SHA256 (RFC 5869) without salt over the context, 16 bytes.

    Args:
        key: The class key.
        context: Who holds it, under which name and version.

    Raises:
        FormatError: The context has no encoding.
    """
    hkdf = HKDF(algorithm=hashes.SHA256(), length=KCV_BYTES, salt=None, info=context.info(KCV_LABEL))
    return hkdf.derive(key.reveal())
