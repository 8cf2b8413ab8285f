"""What stands in a device's twin: parsed once, built in one place (protocol section 4).

``reported`` is written by the device's agent, ``desired`` by the function app. Both are hostile until parsed:
an agent's host may be anybody's, and whoever may write twins may write anything into them. The hub's own
entries (``$metadata``, ``$version``) and unknown fields are ignored.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.encoding import decode_base64, encode_base64
from shared.errors import FormatError
from shared.twin.sections import join_parts, split_text
from shared.types import MAX_KEY_VERSION, Fingerprint, KeyName, WrapAlgorithm, parse_key_name

if TYPE_CHECKING:
    from cryptography import x509

    from shared.public_keys import PublicKey

MAX_WRAPPED_BYTES = 1024
"""Longer than any key wrapped under a public key that the protocol knows (RSA 4096: 512 bytes)."""

MAX_SEQUENCE = 2**52 - 1
"""Largest integer that the hub keeps exactly; sequences are Unix times in milliseconds, far below it."""

PUBLIC_KEY = "device_public_key"
CERTIFICATES = "device_cert"
STATUS = "confidential_package_status"
KEYS = "confidential_package_keys"
RELEASE = "confidential_package_release"
OUTCOME_TAG = "confidential_packages"
CONTRACT_VERSION = 2

_FINGERPRINT_BYTES = 32
_KCV_BYTES = 16
_FAILED_DIGITS = 16
_HEX = re.compile(r"[0-9a-f]*")
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReport:
    """What a device says about one class key.

    Attributes:
        version: The version that it speaks of; 0 if it could not tell.
        state: ``installed`` or ``error``.
        kcv: Key check value, 16 bytes, if installed.
        error: Stable error code (protocol section 4) if not.
        sequence: With an error: of the release that was refused, if the device tells; so that one failure is
            not counted twice.
    """

    version: int
    state: str
    kcv: bytes | None = None
    error: str | None = None
    sequence: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageReport:
    """What a device says about one package: its version such as ``1.2.3``, and its state."""

    version: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedStatus:
    """The agent's ``confidential_package_status``.

    Attributes:
        algorithms: What its CPM can unwrap; names not known here are left out.
        fingerprint: Of the device key that the status speaks of.
        sequence: Of the last release applied; 0 if none was.
        keys: By class key.
        packages: By package id.
    """

    algorithms: tuple[WrapAlgorithm, ...]
    fingerprint: Fingerprint
    sequence: int
    keys: Mapping[KeyName, KeyReport]
    packages: Mapping[str, PackageReport]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedDevice:
    """All that a device reports about itself.

    Attributes:
        public_key: The device key's public half; None if it reports none.
        certificates: Its certificate and the issuers above it, leaf first; empty if it reports none.
        status: None for a device of version 1 of the protocol.
    """

    public_key: PublicKey | None
    certificates: tuple[x509.Certificate, ...]
    status: ReportedStatus | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredKeys:
    """What the function app wants a device to hold.

    Attributes:
        wrapped: The wrapped class keys, by name.
        release: The signed release, a COSE_Sign1; None for a device of version 1 of the protocol.
    """

    wrapped: Mapping[KeyName, bytes]
    release: bytes | None


def parse_public_key(reported: Mapping[str, object]) -> PublicKey | None:
    """Return the device key's public half, or None if the device reports none.

    Raises:
        FormatError: It is not a public key that the protocol knows.
    """
    if PUBLIC_KEY not in reported:
        return None
    from shared.public_keys import load_public_key  # noqa: PLC0415 - a device, which writes these, needs none of it

    where = f"/{PUBLIC_KEY}"
    text = join_parts(reported[PUBLIC_KEY], where=where)
    return load_public_key(decode_base64(text, where=where), where=where)


def parse_certificates(reported: Mapping[str, object]) -> tuple[x509.Certificate, ...]:
    """Return the device's certificate chain, leaf first; empty if it reports none.

    Raises:
        FormatError: It is not base64 of DER certificates, one behind the other.
    """
    if CERTIFICATES not in reported:
        return ()
    from shared.certificates import load_certificates  # noqa: PLC0415 - a device, which writes these, needs none of it

    where = f"/{CERTIFICATES}"
    text = join_parts(reported[CERTIFICATES], where=where)
    return load_certificates(decode_base64(text, where=where), where=where)


def parse_status(reported: Mapping[str, object]) -> ReportedStatus | None:
    """Return the agent's status, or None if the device is of version 1 of the protocol.

    Raises:
        FormatError: Not a status of version 2; the message names the fault by its JSON pointer.
    """
    if STATUS not in reported:
        return None
    where = f"/{STATUS}"
    status = _object(reported[STATUS], where)
    if _integer(status.get("v"), f"{where}/v", minimum=0) != CONTRACT_VERSION:
        raise FormatError(f"{where}/v: expected {CONTRACT_VERSION}, found {status['v']}")
    known = {algorithm.value: algorithm for algorithm in WrapAlgorithm}
    names = _text(status.get("algs"), f"{where}/algs").split()
    return ReportedStatus(
        algorithms=tuple(known[name] for name in names if name in known),
        fingerprint=Fingerprint(_hex(status.get("pkf"), f"{where}/pkf", _FINGERPRINT_BYTES)),
        sequence=_integer(status.get("seq"), f"{where}/seq", minimum=0, maximum=MAX_SEQUENCE),
        keys={
            parse_key_name(name, where=f"{where}/keys"): _key_report(entry, f"{where}/keys/{name}")
            for name, entry in _entries(status.get("keys", {}), f"{where}/keys")
        },
        packages={
            _plain_text(name, f"{where}/packages"): _package_report(entry, f"{where}/packages/{name}")
            for name, entry in _entries(status.get("packages", {}), f"{where}/packages")
        },
    )


def parse_reported(reported: Mapping[str, object]) -> ReportedDevice:
    """Return what a device reports about itself.

    Args:
        reported: The twin's ``properties.reported``.

    Raises:
        FormatError: A field is not what section 4 says; the message names it by its JSON pointer.
    """
    return ReportedDevice(
        public_key=parse_public_key(reported),
        certificates=parse_certificates(reported),
        status=parse_status(reported),
    )


def parse_desired(desired: Mapping[str, object]) -> DesiredKeys:
    """Return what the function app wants a device to hold.

    Args:
        desired: The twin's ``properties.desired``.

    Raises:
        FormatError: A field is not what section 4 says; the message names it by its JSON pointer.
    """
    wrapped = {
        parse_key_name(name, where=f"/{KEYS}"): _wrapped(text, f"/{KEYS}/{name}")
        for name, text in _entries(desired.get(KEYS, {}), f"/{KEYS}")
    }
    if RELEASE not in desired:
        return DesiredKeys(wrapped=wrapped, release=None)
    release = _object(desired[RELEASE], f"/{RELEASE}")
    if _integer(release.get("v"), f"/{RELEASE}/v", minimum=0) != CONTRACT_VERSION:
        raise FormatError(f"/{RELEASE}/v: expected {CONTRACT_VERSION}, found {release['v']}")
    where = f"/{RELEASE}/cose"
    cose = decode_base64(join_parts(release.get("cose"), where=where), where=where)
    return DesiredKeys(wrapped=wrapped, release=cose)


def desired_patch(
    *, wrapped: Mapping[KeyName, bytes], removed: Iterable[str], release: bytes | None
) -> dict[str, object]:
    """Return the patch of ``properties.desired`` that makes it hold these keys.

    Args:
        wrapped: Every key that the device is to hold, wrapped.
        removed: Names that stand in desired now and are to go.
        release: The signed release; None deletes the one that is there.

    Raises:
        FormatError: The release is too long for a twin.
    """
    keys: dict[str, str | None] = dict.fromkeys(removed)
    keys.update({name: encode_base64(data) for name, data in wrapped.items()})
    signed = None if release is None else {"v": CONTRACT_VERSION, "cose": split_text(encode_base64(release))}
    return {KEYS: keys, RELEASE: signed}


def reported_identity(*, spki: bytes, certificates_der: bytes | None) -> dict[str, object]:
    """Return the patch of ``properties.reported`` that names the device key.

    Args:
        spki: The device key's public half, DER SubjectPublicKeyInfo.
        certificates_der: DER certificates one behind the other, leaf first; None reports that there is none.

    Raises:
        FormatError: The certificates are too long for a twin.
    """
    certificates = None if certificates_der is None else split_text(encode_base64(certificates_der))
    return {PUBLIC_KEY: encode_base64(spki), CERTIFICATES: certificates}


def reported_status(
    *,
    algorithms: Sequence[WrapAlgorithm],
    fingerprint: bytes,
    sequence: int,
    keys: Mapping[KeyName, KeyReport],
    packages: Mapping[str, PackageReport],
) -> dict[str, object]:
    """Return ``{"confidential_package_status": …}`` as a whole.

    It is the status, not a patch: what an older status told of and this one does not is taken away with
    :func:`shared.twin.sections.patch_between`.

    Args:
        algorithms: What the CPM can unwrap.
        fingerprint: Of the device key, 32 bytes.
        sequence: Of the last release applied; 0 if none was.
        keys: Each class key that the device holds or failed to take.
        packages: By package id; characters that a twin's names may not hold are written as ``%XX``.

    What of the keys is in error is summed up in ``failed``, for queries that read no more of a twin.
    """
    status: dict[str, object] = {
        "v": CONTRACT_VERSION,
        "algs": " ".join(algorithm.value for algorithm in algorithms),
        "pkf": fingerprint.hex(),
        "seq": sequence,
        "keys": {name: _key_status(report) for name, report in keys.items()},
        "packages": {
            _property_name(name): {"ver": report.version, "state": report.state}
            for name, report in packages.items()
        },
    }
    failed = [
        f"{name}@{report.sequence}" for name, report in sorted(keys.items()) if report.error is not None
    ]
    if failed:
        status["failed"] = hashlib.sha256(" ".join(failed).encode()).hexdigest()[:_FAILED_DIGITS]
    return {STATUS: status}


def _key_status(report: KeyReport) -> dict[str, object]:
    status: dict[str, object] = {"ver": report.version, "state": report.state}
    if report.kcv is not None:
        status["kcv"] = report.kcv.hex()
    if report.error is not None:
        status["error"] = report.error
    if report.sequence is not None:
        status["seq"] = report.sequence
    return status


def _key_report(value: object, where: str) -> KeyReport:
    entry = _object(value, where)
    state = _text(entry.get("state"), f"{where}/state")
    if state not in {"installed", "error"}:
        raise FormatError(f"{where}/state: expected installed or error, found {state[:32]!r}")
    kcv, error, sequence = entry.get("kcv"), entry.get("error"), entry.get("seq")
    return KeyReport(
        version=_integer(entry.get("ver"), f"{where}/ver", minimum=0, maximum=MAX_KEY_VERSION),
        state=state,
        kcv=None if kcv is None else _hex(kcv, f"{where}/kcv", _KCV_BYTES),
        error=None if error is None else _text(error, f"{where}/error"),
        sequence=(
            None if sequence is None else _integer(sequence, f"{where}/seq", minimum=0, maximum=MAX_SEQUENCE)
        ),
    )


def _package_report(value: object, where: str) -> PackageReport:
    entry = _object(value, where)
    return PackageReport(
        version=_text(entry.get("ver"), f"{where}/ver"), state=_text(entry.get("state"), f"{where}/state")
    )


def _wrapped(value: object, where: str) -> bytes:
    data = decode_base64(value, where=where)
    if not 1 <= len(data) <= MAX_WRAPPED_BYTES:
        raise FormatError(f"{where}: expected 1 to {MAX_WRAPPED_BYTES} bytes, found {len(data)}")
    return data


def _property_name(text: str) -> str:
    """Write a text as a property's name: bytes outside ``A-Z a-z 0-9 _ -`` as ``%XX``."""
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in text.encode())


def _plain_text(name: str, where: str) -> str:
    """Read back what :func:`_property_name` wrote."""
    try:
        data = re.sub(rb"%([0-9A-F]{2})", lambda match: bytes([int(match[1], 16)]), name.encode())
        return data.decode()
    except UnicodeError as error:
        raise FormatError(f"{where}: {name[:64]!r} is no escaped UTF-8") from error


def _object(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise FormatError(f"{where}: expected an object, found {type(value).__name__}")
    return value


def _entries(value: object, where: str) -> list[tuple[str, object]]:
    return [(name, entry) for name, entry in _object(value, where).items() if not name.startswith("$")]


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{where}: expected text, found {type(value).__name__}")
    return value


def _integer(value: object, where: str, *, minimum: int, maximum: int | None = None) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise FormatError(f"{where}: expected an integer, found {type(value).__name__}")
    if value < minimum or (maximum is not None and value > maximum):
        raise FormatError(f"{where}: expected {minimum} to {maximum}, found {value}")
    return value


def _hex(value: object, where: str, length: int) -> bytes:
    text = _text(value, where)
    if len(text) != 2 * length or not _HEX.fullmatch(text):
        raise FormatError(f"{where}: expected {2 * length} lower-case hex digits")
    return bytes.fromhex(text)
