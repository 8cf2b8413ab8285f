"""Decide whether a device may believe a release: the numbered steps of protocol section 4.

Signature first: until it holds, not one claim is interpreted. The steps end at the first that fails, and a
device that fails one changes nothing. What is left out on purpose: ``iat`` is not compared with the device's
clock, which may be behind; the sequence is what keeps order.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from shared.errors import VerificationError
from shared.release.document import parse_claims, parse_sign1, to_be_signed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from shared.release.document import Release, Sign1
    from shared.types import Audience, DeviceId, Fingerprint, KeyName


class Verdict(enum.Enum):
    """What to do with a release that holds."""

    NEW = "new"
    ALREADY_APPLIED = "already_applied"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a device knows of itself, and remembers, when a release arrives.

    Args:
        audience: The deployment it belongs to.
        device_id: Its id.
        fingerprint: Its device key's.
        at: Now, aware.
        last_sequence: Of the release applied last; 0 if there was none.
        last_digest: SHA-256 of the COSE bytes of the release applied last, or None.
        floors: The lowest version allowed, by name, as raised by all releases before.
    """

    audience: Audience
    device_id: DeviceId
    fingerprint: Fingerprint
    at: datetime
    last_sequence: int
    last_digest: bytes | None
    floors: Mapping[KeyName, int]


def verify_signature(
    cose: bytes, release_keys: Sequence[ec.EllipticCurvePublicKey], *, where: str
) -> Release:
    """Parse a release and verify that one of the pinned release keys signed it.

    Args:
        cose: The document.
        release_keys: EC P-256 keys; ``kid`` chooses none of them, all are tried.
        where: What is being read, for the message.

    Raises:
        FormatError: It is not a release.
        VerificationError: ``signature_invalid``.
    """
    sign1 = parse_sign1(cose, where=where)
    if not any(_verifies(sign1, key) for key in release_keys):
        raise VerificationError(
            f"{where}: no pinned release key of {len(release_keys)} made this signature",
            code="signature_invalid",
        )
    return parse_claims(sign1.claims, where=where)


def _verifies(sign1: Sign1, key: ec.EllipticCurvePublicKey) -> bool:
    if not isinstance(key.curve, ec.SECP256R1):  # ES256 here is P-256 and nothing else
        return False
    half = len(sign1.signature) // 2
    r, s = (int.from_bytes(part, "big") for part in (sign1.signature[:half], sign1.signature[half:]))
    signed = to_be_signed(sign1.claims, kid=sign1.kid)
    try:
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def verify_release(
    cose: bytes,
    wrapped: Mapping[KeyName, bytes],
    release_keys: Sequence[ec.EllipticCurvePublicKey],
    expected: Expectation,
) -> tuple[Verdict, Release]:
    """Verify a release and the wrapped keys that came with it.

    Args:
        cose: The document.
        wrapped: The wrapped keys, by name.
        release_keys: The pinned ones.
        expected: What the device knows.

    Returns:
        ``NEW`` to unwrap and store; ``ALREADY_APPLIED`` if these very bytes were applied last: nothing to do,
        and the wrapped keys were not looked at.

    Raises:
        FormatError: It is not a release.
        VerificationError: ``signature_invalid`` ``wrong_device`` ``key_mismatch`` ``replay`` ``rollback``
            ``expired``; wrapped keys that are not the signed ones are ``signature_invalid`` too.
    """
    # 1. One of the pinned release keys signed it.
    release = verify_signature(cose, release_keys, where="release")
    # 2. It is for this deployment and this device.
    _check_addressee(release, expected)
    # 3. Its keys are wrapped for this device key.
    if not hmac.compare_digest(release.fingerprint, expected.fingerprint):
        raise _refused("key_mismatch", "release: it is for another device key than this device's")
    # 4. It is newer than the last one, or is the last one.
    if _is_last_one(cose, release, expected):
        return Verdict.ALREADY_APPLIED, release
    # 5. No version is below a floor, stored or stated.
    _check_floors(release, expected)
    # 6. Neither it nor a key's lease has expired.
    _check_time(release, expected)
    # 7. The wrapped keys are the signed ones: no more, no fewer, no others.
    _check_wrapped(release, wrapped)
    return Verdict.NEW, release


def _check_addressee(release: Release, expected: Expectation) -> None:
    for claim, found, own in (
        ("aud", release.audience, expected.audience),
        ("sub", release.device_id, expected.device_id),
    ):
        if found != own:
            raise _refused("wrong_device", f"release: expected {claim} {own!r}, found {found!r}")


def _is_last_one(cose: bytes, release: Release, expected: Expectation) -> bool:
    if release.sequence > expected.last_sequence:
        return False
    if release.sequence == expected.last_sequence and expected.last_digest == hashlib.sha256(cose).digest():
        return True
    raise _refused(
        "replay",
        f"release: expected a sequence above {expected.last_sequence}, found {release.sequence}",
    )


def _check_floors(release: Release, expected: Expectation) -> None:
    for name, key in release.keys.items():
        floor = max(expected.floors.get(name, 1), release.floors.get(name, 1))
        if key.version < floor:
            raise _refused(
                "rollback", f"release: key {name}: expected version {floor} or above, found {key.version}"
            )


def _check_time(release: Release, expected: Expectation) -> None:
    now = expected.at.timestamp()
    if now >= release.expires_at:
        raise _refused("expired", f"release: it expired at {release.expires_at} (Unix seconds)")
    for name, key in release.keys.items():
        if now >= key.not_after:
            raise _refused(
                "expired", f"release: the lease of key {name} ended at {key.not_after} (Unix seconds)"
            )


def _check_wrapped(release: Release, wrapped: Mapping[KeyName, bytes]) -> None:
    if release.keys.keys() != wrapped.keys():
        odd = ", ".join(sorted(release.keys.keys() ^ wrapped.keys())[:8])
        raise _refused("signature_invalid", f"release: wrapped keys are missing or not in it: {odd}")
    for name, key in release.keys.items():
        if not hmac.compare_digest(hashlib.sha256(wrapped[name]).digest(), key.wrapped_sha256):
            raise _refused(
                "signature_invalid", f"release: the wrapped key {name} is not the one that was signed"
            )


def _refused(code: str, message: str) -> VerificationError:
    return VerificationError(message, code=code)
