"""The release document: a CWT (RFC 8392) in a COSE_Sign1 (RFC 9052), deterministic CBOR (protocol section 4).

======  ======================================================================================
claim   value
======  ======================================================================================
2       ``sub``: device id, text
3       ``aud``: audience, text
4       ``exp``: Unix seconds
6       ``iat``: Unix seconds
7       ``cti``: sequence, u64 big-endian in 8 bytes
-70000  fingerprint of the device key, 32 bytes
-70001  keys: {name: [version, COSE algorithm, not-after in Unix seconds, SHA-256 of wrapped bytes]}
-70002  floors: {name: lowest version allowed}
-70003  SHA-256 of the policy document that allowed it, 32 bytes
======  ======================================================================================

Signing is cut in three, because the release key never leaves the vault: :func:`encode_claims`, then
:func:`to_be_signed` whose SHA-256 the vault signs with ES256, then :func:`assemble`. Parsing is strict: a
claim or header parameter that is missing, unknown, or of another type refuses the document, and a boolean is
no integer.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cbor2

from shared.encoding import decode_cbor, encode_cbor
from shared.errors import FormatError
from shared.types import (
    MAX_KEY_VERSION,
    Audience,
    DeviceId,
    Fingerprint,
    KeyName,
    WrapAlgorithm,
    parse_audience,
    parse_device_id,
    parse_key_name,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_RELEASE_BYTES: Final = 64 * 1024
"""Longest release that is read; a twin's desired section holds 32 KiB."""

MAX_TIME: Final = 253_402_300_799
"""Last accepted time in Unix seconds: 9999-12-31T23:59:59Z, so that every time has a calendar date."""

MAX_KID_BYTES: Final = 512
"""Longest key id."""

SIGNATURE_BYTES: Final = 64
"""Length of an ES256 signature: r and s, 32 bytes big-endian each (RFC 9053 section 2.1)."""

_COSE_SIGN1_TAG = 18
_HEADER_ALG, _HEADER_KID, _ES256 = 1, 4, -7
_SUB, _AUD, _EXP, _IAT, _CTI = 2, 3, 4, 6, 7
_FINGERPRINT, _KEYS, _FLOORS, _POLICY = -70000, -70001, -70002, -70003
_CLAIMS = frozenset({_SUB, _AUD, _EXP, _IAT, _CTI, _FINGERPRINT, _KEYS, _FLOORS, _POLICY})
_SHA256_BYTES = 32
_SEQUENCE_BYTES = 8
_SIGN1_PARTS = 4
_KEY_PARTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedKey:
    """What a release says of one class key.

    Args:
        version: The version the device may hold, from 1.
        algorithm: How it is wrapped.
        not_after: Unix seconds; from then on the wrapped key is not to be applied.
        wrapped_sha256: SHA-256 of the wrapped bytes, 32 bytes.
    """

    version: int
    algorithm: WrapAlgorithm
    not_after: int
    wrapped_sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What a release says.

    Args:
        device_id: The device it is for.
        audience: The deployment it comes from.
        issued_at: Unix seconds.
        expires_at: Unix seconds; from then on it is not to be applied.
        sequence: u64, greater than that of every release before it for this device.
        fingerprint: Of the device key that the class keys are wrapped for.
        keys: The class keys the device may hold; it forgets all others.
        floors: The lowest version allowed, by name.
        policy_sha256: Which policy document allowed it, 32 bytes.
    """

    device_id: DeviceId
    audience: Audience
    issued_at: int
    expires_at: int
    sequence: int
    fingerprint: Fingerprint
    keys: Mapping[KeyName, ReleasedKey]
    floors: Mapping[KeyName, int]
    policy_sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign1:
    """A COSE_Sign1 of the release's profile, its claims not interpreted.

    Args:
        kid: The release key's version id; a hint only, unauthenticated until the signature is verified.
        claims: The payload's bytes.
        signature: r and s, 64 bytes.
    """

    kid: str
    claims: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRelease:
    """A release that was parsed and **not** verified.

    Args:
        release: What it says.
        kid: As in :class:`Sign1`.
        claims: As in :class:`Sign1`.
        signature: As in :class:`Sign1`.
    """

    release: Release
    kid: str
    claims: bytes
    signature: bytes


def encode_claims(release: Release) -> bytes:
    """Return the CWT claims set of a release, deterministic CBOR."""
    return encode_cbor(
        {
            _SUB: release.device_id,
            _AUD: release.audience,
            _EXP: release.expires_at,
            _IAT: release.issued_at,
            _CTI: release.sequence.to_bytes(_SEQUENCE_BYTES, "big"),
            _FINGERPRINT: release.fingerprint,
            _KEYS: {
                name: [key.version, key.algorithm.cose, key.not_after, key.wrapped_sha256]
                for name, key in release.keys.items()
            },
            _FLOORS: dict(release.floors),
            _POLICY: release.policy_sha256,
        }
    )


def to_be_signed(claims: bytes, *, kid: str) -> bytes:
    """Return the COSE Sig_structure (RFC 9052 section 4.4); ES256 signs its SHA-256.

    Args:
        claims: From :func:`encode_claims`.
        kid: The release key's version id in the vault.
    """
    return encode_cbor(["Signature1", _protected(kid), b"", claims])


def assemble(claims: bytes, *, kid: str, signature: bytes) -> bytes:
    """Return the tagged COSE_Sign1.

    Args:
        claims: As they were signed.
        kid: As it was signed.
        signature: r and s, 64 bytes, as the vault answers them.

    Raises:
        FormatError: The signature has another length, or the release would be longer than a device reads.
    """
    if len(signature) != SIGNATURE_BYTES:
        raise FormatError(f"release: expected a signature of 64 bytes, found {len(signature)}")
    cose = encode_cbor(cbor2.CBORTag(_COSE_SIGN1_TAG, [_protected(kid), {}, claims, signature]))
    if len(cose) > MAX_RELEASE_BYTES:
        raise FormatError(f"release: {len(cose)} bytes are more than the {MAX_RELEASE_BYTES} that are read")
    return cose


@functools.lru_cache(maxsize=8)
def _protected(kid: str) -> bytes:
    return encode_cbor({_HEADER_ALG: _ES256, _HEADER_KID: kid.encode()})


def parse_release(cose: bytes, *, where: str) -> SignedRelease:
    """Parse a release without verifying it: for showing, and for comparing in the cloud.

    Args:
        cose: The document.
        where: What is being read, for the message.

    Raises:
        FormatError: As for :func:`parse_sign1` and :func:`parse_claims`.
    """
    sign1 = parse_sign1(cose, where=where)
    release = parse_claims(sign1.claims, where=where)
    return SignedRelease(release=release, kid=sign1.kid, claims=sign1.claims, signature=sign1.signature)


def parse_sign1(cose: bytes, *, where: str) -> Sign1:
    """Parse the COSE_Sign1 around a release's claims.

    Raises:
        FormatError: Longer than 64 KiB, not tag 18 in deterministic CBOR, another protected header than
            ``{1: -7, 4: kid}``, anything in the unprotected one, or a signature of another length.
    """
    if len(cose) > MAX_RELEASE_BYTES:
        raise FormatError(
            f"{where}: expected a release of at most {MAX_RELEASE_BYTES} bytes, found {len(cose)}"
        )
    item = decode_cbor(cose, where=where)
    if not isinstance(item, cbor2.CBORTag) or item.tag != _COSE_SIGN1_TAG:
        raise FormatError(f"{where}: expected a COSE_Sign1 with tag 18")
    parts = item.value
    if not isinstance(parts, list) or len(parts) != _SIGN1_PARTS:
        raise FormatError(f"{where}: expected a COSE_Sign1 of 4 parts")
    protected, unprotected, claims, signature = parts
    if type(unprotected) is not dict or unprotected:
        raise FormatError(f"{where}: expected an empty unprotected header")
    return Sign1(
        kid=_parse_protected(_octets(protected, f"{where}: protected header"), where=where),
        claims=_octets(claims, f"{where}: payload"),
        signature=_octets(signature, f"{where}: signature", length=SIGNATURE_BYTES),
    )


def _parse_protected(protected: bytes, *, where: str) -> str:
    header = decode_cbor(protected, where=f"{where}: protected header")
    if (
        not isinstance(header, dict)
        or header.keys() != {_HEADER_ALG, _HEADER_KID}
        or any(type(label) is not int for label in header)
    ):
        raise FormatError(f"{where}: expected a protected header of exactly alg (1) and kid (4)")
    _integer(header[_HEADER_ALG], f"{where}: alg", low=_ES256, high=_ES256)
    kid = _octets(header[_HEADER_KID], f"{where}: kid")
    if not 1 <= len(kid) <= MAX_KID_BYTES:
        raise FormatError(f"{where}: kid: expected 1 to {MAX_KID_BYTES} bytes, found {len(kid)}")
    try:
        return kid.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: kid: expected UTF-8") from error


def parse_claims(claims: bytes, *, where: str) -> Release:
    """Parse a claims set.

    Raises:
        FormatError: A claim is missing, unknown, of another type or out of its range. ``name_invalid`` for a
            key's name, ``unsupported_algorithm`` for a wrapping algorithm that is not known.
    """
    found = decode_cbor(claims, where=f"{where}: claims")
    if not isinstance(found, dict) or any(type(label) is not int for label in found):
        raise FormatError(f"{where}: expected claims as a map with integer labels")
    if found.keys() != _CLAIMS:
        odd = ", ".join(str(label) for label in sorted(found.keys() ^ _CLAIMS)[:8])
        raise FormatError(f"{where}: claims that are missing or unknown: {odd}")
    return Release(
        device_id=parse_device_id(found[_SUB], where=f"{where}: sub"),
        audience=parse_audience(found[_AUD], where=f"{where}: aud"),
        issued_at=_time(found[_IAT], f"{where}: iat"),
        expires_at=_time(found[_EXP], f"{where}: exp"),
        sequence=int.from_bytes(_octets(found[_CTI], f"{where}: cti", length=_SEQUENCE_BYTES), "big"),
        fingerprint=Fingerprint(_digest(found[_FINGERPRINT], f"{where}: fingerprint")),
        keys={
            parse_key_name(name, where=f"{where}: keys"): _released_key(value, f"{where}: keys/{name}")
            for name, value in _map(found[_KEYS], f"{where}: keys").items()
        },
        floors={
            parse_key_name(name, where=f"{where}: floors"): _version(value, f"{where}: floors/{name}")
            for name, value in _map(found[_FLOORS], f"{where}: floors").items()
        },
        policy_sha256=_digest(found[_POLICY], f"{where}: policy"),
    )


def _released_key(value: object, where: str) -> ReleasedKey:
    if not isinstance(value, list) or len(value) != _KEY_PARTS:
        raise FormatError(f"{where}: expected [version, algorithm, not-after, hash]")
    version, algorithm, not_after, wrapped_sha256 = value
    return ReleasedKey(
        version=_version(version, where),
        algorithm=WrapAlgorithm.from_cose(
            _integer(algorithm, f"{where}: algorithm", low=-(2**31), high=2**31)
        ),
        not_after=_time(not_after, f"{where}: not-after"),
        wrapped_sha256=_digest(wrapped_sha256, f"{where}: hash"),
    )


def _map(value: object, where: str) -> dict[object, object]:
    if not isinstance(value, dict):
        raise FormatError(f"{where}: expected a map, found {type(value).__name__}")
    return value


def _integer(value: object, where: str, *, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:  # a boolean is an int to isinstance
        shown = str(value)[:32] if type(value) is int else type(value).__name__
        raise FormatError(f"{where}: expected an integer of {low} to {high}, found {shown}")
    return value


def _version(value: object, where: str) -> int:
    return _integer(value, f"{where}: version", low=1, high=MAX_KEY_VERSION)


def _time(value: object, where: str) -> int:
    return _integer(value, where, low=0, high=MAX_TIME)


def _octets(value: object, where: str, *, length: int | None = None) -> bytes:
    if not isinstance(value, bytes):
        raise FormatError(f"{where}: expected a byte string, found {type(value).__name__}")
    if length is not None and len(value) != length:
        raise FormatError(f"{where}: expected {length} bytes, found {len(value)}")
    return value


def _digest(value: object, where: str) -> bytes:
    return _octets(value, where, length=_SHA256_BYTES)
