"""Class keys at rest: compact JWE, RSA-OAEP-256 and A256GCM (protocol section 2, RFC 7516).

The protected header is exactly ``{"alg", "enc", "kid", "cpk_name", "cpk_ver", "cpk_alg"}``. The tag
authenticates it, so a secret that was moved under another name or version does not open. Sealing needs the
KEK's public half alone. Opening is in two steps, because the private half stays in the vault: parse, let the
vault unwrap :attr:`Envelope.encrypted_cek`, then open with the content encryption key (CEK) that it answers.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared import strict_json
from shared.errors import FormatError, VerificationError
from shared.types import MAX_KEY_VERSION, KeyName, Secret, parse_key_name

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa

MAX_ENVELOPE_CHARACTERS: Final = 4096
"""Longest envelope that is read; one under RSA-4096 has about 1,200 characters."""

_CEK_BYTES = 32
_IV_BYTES = 12
_TAG_BYTES = 16
_RSA_BYTES = (256, 384, 512)
_ALGORITHM_OF: Final = {16: "aes-gcm-128", 24: "aes-gcm-192", 32: "aes-gcm-256"}
_LENGTH_OF: Final = {algorithm: length for length, algorithm in _ALGORITHM_OF.items()}
_HEADER_MEMBERS = frozenset({"alg", "enc", "kid", "cpk_name", "cpk_ver", "cpk_alg"})
_KID = re.compile(r"[\x21-\x7e]{1,512}")
_PARTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Kek:
    """The public half of the key encryption key.

    Args:
        kid: The full id of its version in the vault.
        public_key: RSA, 2048 bits or more.
    """

    kid: str
    public_key: rsa.RSAPublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A parsed envelope; nothing in it is verified before :func:`open_envelope`.

    Args:
        kid: The KEK version that it names. That it is the configured KEK is the caller's to check, before the
            vault is asked.
        name: The class key's name.
        version: The class key's version.
        algorithm: ``aes-gcm-128``, ``aes-gcm-192`` or ``aes-gcm-256``.
        encrypted_cek: What the vault unwraps with RSA-OAEP-256: 256, 384 or 512 bytes.
        iv: 12 bytes.
        ciphertext: As long as the class key.
        tag: 16 bytes.
        protected: The encoded header as it stands in the text: the additional authenticated data.
    """

    kid: str
    name: KeyName
    version: int
    algorithm: str
    encrypted_cek: bytes
    iv: bytes
    ciphertext: bytes
    tag: bytes
    protected: bytes


def seal_envelope(key: Secret, *, kek: Kek, name: KeyName, version: int) -> str:
    """Seal a class key under the KEK, with a fresh CEK and nonce.

    Args:
        key: 16, 24 or 32 bytes.
        kek: What to seal under.
        name: The class key's name.
        version: Its version, from 1.

    Returns:
        Compact JWE text.

    Raises:
        FormatError: The key's length is none, or the version is no u32 from 1.
    """
    if len(key) not in _ALGORITHM_OF:
        raise FormatError(f"class key: expected 16, 24 or 32 bytes, found {len(key)}")
    if not 1 <= version <= MAX_KEY_VERSION:
        raise FormatError(f"class key {name}: expected a version of 1 to {MAX_KEY_VERSION}, found {version}")
    header = {
        "alg": "RSA-OAEP-256",
        "enc": "A256GCM",
        "kid": kek.kid,
        "cpk_name": name,
        "cpk_ver": version,
        "cpk_alg": _ALGORITHM_OF[len(key)],
    }
    protected = _encode(json.dumps(header, separators=(",", ":")).encode())
    cek = secrets.token_bytes(_CEK_BYTES)
    iv = secrets.token_bytes(_IV_BYTES)
    sealed = AESGCM(cek).encrypt(iv, key.reveal(), protected.encode())
    encrypted_cek = kek.public_key.encrypt(
        cek, padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
    )
    parts = (encrypted_cek, iv, sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:])
    return ".".join((protected, *map(_encode, parts)))


def parse_envelope(text: str, *, where: str) -> Envelope:
    """Parse a compact JWE of exactly the kind that :func:`seal_envelope` writes.

    Args:
        text: The secret's value.
        where: What is being read, for the message.

    Raises:
        FormatError: Anything else: other algorithms, more or fewer header members, lengths that cannot be.
    """
    if len(text) > MAX_ENVELOPE_CHARACTERS:
        raise FormatError(
            f"{where}: expected a JWE of at most {MAX_ENVELOPE_CHARACTERS} characters, found {len(text)}"
        )
    parts = text.split(".")
    if len(parts) != _PARTS:
        raise FormatError(f"{where}: expected a compact JWE of 5 parts, found {len(parts)}")
    header_bytes, encrypted_cek, iv, ciphertext, tag = (
        _decode(part, where=f"{where}: JWE part {number}") for number, part in enumerate(parts, start=1)
    )
    kid, name, version, algorithm = _parse_header(header_bytes, where=f"{where}: JWE header")
    lengths = (len(iv), len(ciphertext), len(tag))
    if len(encrypted_cek) not in _RSA_BYTES or lengths != (_IV_BYTES, _LENGTH_OF[algorithm], _TAG_BYTES):
        raise FormatError(f"{where}: the lengths of the JWE's parts do not fit its algorithms")
    return Envelope(
        kid=kid,
        name=name,
        version=version,
        algorithm=algorithm,
        encrypted_cek=encrypted_cek,
        iv=iv,
        ciphertext=ciphertext,
        tag=tag,
        protected=parts[0].encode("ascii"),
    )


def _parse_header(data: bytes, *, where: str) -> tuple[str, KeyName, int, str]:
    header = strict_json.loads(data, where=where)
    if not isinstance(header, dict) or header.keys() != _HEADER_MEMBERS:
        raise FormatError(f"{where}: expected exactly the members {', '.join(sorted(_HEADER_MEMBERS))}")
    if (header["alg"], header["enc"]) != ("RSA-OAEP-256", "A256GCM"):
        raise FormatError(f"{where}: expected alg RSA-OAEP-256 and enc A256GCM", code="unsupported_algorithm")
    kid, version, algorithm = header["kid"], header["cpk_ver"], header["cpk_alg"]
    if not isinstance(kid, str) or not _KID.fullmatch(kid):
        raise FormatError(f"{where}: expected kid as 1 to 512 printable ASCII characters")
    if type(version) is not int or not 1 <= version <= MAX_KEY_VERSION:
        raise FormatError(f"{where}: expected cpk_ver as an integer of 1 to {MAX_KEY_VERSION}")
    if not isinstance(algorithm, str) or algorithm not in _LENGTH_OF:
        raise FormatError(f"{where}: expected cpk_alg as one of {', '.join(_LENGTH_OF)}")
    return kid, parse_key_name(header["cpk_name"], where=f"{where}: cpk_name"), version, algorithm


def open_envelope(envelope: Envelope, cek: Secret, *, name: KeyName, version: int) -> Secret:
    """Open an envelope with its unwrapped CEK.

    Args:
        envelope: From :func:`parse_envelope`.
        cek: 32 bytes, from the vault.
        name: The class key that was asked for.
        version: The version that was asked for.

    Returns:
        The class key.

    Raises:
        VerificationError: The envelope is another key's or another version's, or its tag does not hold.
    """
    if (envelope.name, envelope.version) != (name, version):
        raise VerificationError(
            f"the envelope holds class key {envelope.name} version {envelope.version}, expected {name} "
            f"version {version}"
        )
    if len(cek) != _CEK_BYTES:
        raise VerificationError(f"class key {name} version {version}: its content key has a wrong length")
    try:
        key = AESGCM(cek.reveal()).decrypt(
            envelope.iv, envelope.ciphertext + envelope.tag, envelope.protected
        )
    except InvalidTag as error:
        raise VerificationError(f"class key {name} version {version}: the tag does not hold") from error
    return Secret(key)


def _encode(data: bytes) -> str:
    """Return base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str, *, where: str) -> bytes:
    """Return the bytes of canonical base64url without padding."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error) as error:
        raise FormatError(f"{where}: expected base64url without padding") from error
    if _encode(data) != text:
        raise FormatError(f"{where}: expected canonical base64url without padding")
    return data
