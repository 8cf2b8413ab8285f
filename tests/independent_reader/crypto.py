"""The cryptography of a confidential package (specification, sections 5 and 7), on ``cryptography`` alone."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)
from cryptography.x509 import verification

if TYPE_CHECKING:
    from datetime import datetime

SIGNATURES = {
    "rsa-pkcs1v15": None,
    "rsa-pss": None,
    "ecdsa-p256": 64,
    "ecdsa-p384": 96,
    "ed25519": 64,
    "ml-dsa-65": 3309,
}
DEMO_KEY = "198e5be9542c97fd38a0acd2b5403e5602d38542923f86d03deb4beb5f67c2d5"
MAX_STORED = {"aes-gcm": 2**36 - 32, "chacha20-poly1305": 2**38 - 64}
TAG = 16
PARSER_ERRORS = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


class Malformed(Exception):
    """Not a package."""


class Refused(Exception):
    """A package that does not hold or is not trusted; the message is the stable code."""


def signature_size(tag: str, fields: dict[str, Any]) -> int:
    size = SIGNATURES[tag]
    return fields["key_strength"] // 8 if size is None else size


def check_stored_size(tag: str, fields: dict[str, Any], size: int) -> None:
    """Hold the stored payload to what its scheme makes of any payload."""
    if tag != "aes-gcm-stream":
        if size > MAX_STORED[tag]:
            raise Malformed("payload too long")
        return
    whole = fields["segment_size"] + TAG
    if 0 < size % whole <= TAG or -(-size // whole) > 2**32:
        raise Malformed("payload: no whole segments")


def open_whole(tag: str, key: bytes, nonce: bytes, stored: bytes, seal: bytes) -> bytes:
    cipher = AESGCM(key) if tag == "aes-gcm" else ChaCha20Poly1305(key)
    try:
        return cipher.decrypt(nonce, stored + seal, None)
    except InvalidTag as error:
        raise Refused("tag_mismatch") from error


def open_segments(
    key: bytes, stored: bytes, size: int, *, salt: bytes, prefix: bytes, associated: bytes
) -> bytes:
    own = HKDF(algorithm=hashes.SHA256(), length=len(key), salt=salt, info=b"CPK-STREAM-v1").derive(key)
    cipher, clear = AESGCM(own), []
    starts = range(0, len(stored), size + TAG)
    for number, start in enumerate(starts):
        last = b"\x01" if number == len(starts) - 1 else b"\x00"
        nonce = prefix + number.to_bytes(4, "big") + last
        try:
            clear.append(cipher.decrypt(nonce, stored[start : start + size + TAG], associated))
        except InvalidTag as error:
            raise Refused("tag_mismatch") from error
    return b"".join(clear)


def holds(key: Any, sig: Any, signature: bytes, *, covered: bytes, digest: bytes, role: str) -> bool:
    """Whether a signature holds (section 5.3)."""
    tag = sig[0]
    try:
        if tag == "rsa-pkcs1v15":
            key.verify(signature, covered, padding.PKCS1v15(), hashes.SHA256())
        elif tag == "rsa-pss":
            pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
            key.verify(signature, covered, pss, hashes.SHA256())
        elif tag in {"ecdsa-p256", "ecdsa-p384"}:
            half = len(signature) // 2
            r, s = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
            algorithm = hashes.SHA256() if tag == "ecdsa-p256" else hashes.SHA384()
            key.verify(encode_dss_signature(r, s), covered, ec.ECDSA(algorithm))
        else:
            key.verify(signature, b"CPK-SIG-v1\0" + role.encode() + b"\0" + digest)
    except InvalidSignature:
        return False
    return True


def load_chain(data: bytes, *, pem: bool) -> list[x509.Certificate]:
    """Return 1 to 8 certificates, leaf first, read down to their extensions and keys."""
    try:
        if (b"-----BEGIN " in data) is not pem or len(data) > 1 << 16:
            raise Malformed("certificates: another encoding, or too long")
        chain = x509.load_pem_x509_certificates(data) if pem else [*_split_der(data)]
        for each in chain:
            _ = each.subject, each.issuer, each.extensions, each.not_valid_before_utc, each.public_key()
    except PARSER_ERRORS as error:
        raise Malformed("certificates") from error
    if not 1 <= len(chain) <= 8:
        raise Malformed("certificates: too many or none")
    return chain


def _split_der(data: bytes) -> Any:
    while data:
        if len(data) < 4 or data[0] != 0x30 or data[1] not in (0x81, 0x82):
            raise ValueError("no certificate")
        header = 2 + (data[1] & 0x7F)
        end = header + int.from_bytes(data[2:header], "big")
        yield x509.load_der_x509_certificate(data[:end])
        data = data[end:]


def load_spki(data: bytes, *, pem: bool) -> bytes:
    """Return a bare public key's canonical DER."""
    try:
        if (b"-----BEGIN " in data) is not pem:
            raise Malformed("public key: another encoding")
        key = load_pem_public_key(data) if pem else load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Malformed("public key") from error
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if _schemes(key) == () or (not pem and spki != data):
        raise Malformed("public key: of another kind, or not canonical")
    return spki


def spki_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def signing_key(spki: bytes, sig: Any) -> Any:
    """Return the key if it fits the signing scheme and is not the demo key."""
    if hashlib.sha256(spki).hexdigest() == DEMO_KEY:
        raise Refused("insecure_key")
    key = load_der_public_key(spki)
    tag, fields = sig
    if tag not in _schemes(key) or (
        isinstance(key, rsa.RSAPublicKey) and key.key_size != fields["key_strength"]
    ):
        raise Refused("signer_key_mismatch")
    return key


def _schemes(key: Any) -> tuple[str, ...]:
    match key:
        case rsa.RSAPublicKey():
            fits = key.key_size in (2048, 3072, 4096) and key.public_numbers().e == 65537
            return ("rsa-pkcs1v15", "rsa-pss") if fits else ()
        case ec.EllipticCurvePublicKey():
            by_curve = {"secp256r1": ("ecdsa-p256",), "secp384r1": ("ecdsa-p384",)}
            return by_curve.get(key.curve.name, ())
        case ed25519.Ed25519PublicKey():
            return ("ed25519",)
        case mldsa.MLDSA65PublicKey():
            return ("ml-dsa-65",)
        case _:
            return ()


def check_path(chain: list[x509.Certificate], roots: list[x509.Certificate], at: datetime) -> None:
    """Validate the path from ``chain[0]`` to a root (section 7, step 3)."""
    for each in chain:
        if at < each.not_valid_before_utc:
            raise Refused("certificate_not_yet_valid")
        if at > each.not_valid_after_utc:
            raise Refused("certificate_expired")
    usage = next((each.value for each in chain[0].extensions if isinstance(each.value, x509.KeyUsage)), None)
    if usage is not None and not usage.digital_signature:
        raise Refused("certificate_untrusted")
    if chain[0] in roots:
        return
    anything = verification.ExtensionPolicy.permit_all()
    issuers = anything.require_present(x509.BasicConstraints, verification.Criticality.AGNOSTIC, None)
    builder = verification.PolicyBuilder().store(verification.Store(roots)).time(at)
    builder = builder.extension_policies(ca_policy=issuers, ee_policy=anything)
    try:
        builder.build_client_verifier().verify(chain[0], chain[1:])
    except verification.VerificationError as error:
        raise Refused("certificate_untrusted") from error
