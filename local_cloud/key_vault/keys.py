"""What the vault's keys are and do: key types, their JWK form, and the operations on them.

Key types are RSA and EC, each with its ``-HSM`` form, which here differs in name only. Algorithms are those
that the project uses and their neighbours; OAEP with SHA-1 and PKCS #1 v1.5 encryption are left out on
purpose. ``oct-HSM`` is left out too: the SDK wraps under such a key locally with a key that nobody holds,
and loses the data.

Which operations a key does is its ``key_ops``; whether now is a matter of its attributes: a disabled key does
nothing, and outside ``nbf`` and ``exp`` a key still decrypts, unwraps and verifies, as in Azure.
"""

from __future__ import annotations

import enum
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from local_cloud.key_vault.errors import bad_parameter, forbidden
from shared.encoding import encode_base64
from shared.types import Secret

if TYPE_CHECKING:
    from local_cloud.key_vault.store import Attributes

PrivateKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

RSA_SIZES = (2048, 3072, 4096)
"""Bits of the RSA keys that are made."""

_CURVES: dict[str, type[ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "P-521": ec.SECP521R1,
}
_CURVE_NAMES = {curve().name: name for name, curve in _CURVES.items()}
_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "256": hashes.SHA256,
    "384": hashes.SHA384,
    "512": hashes.SHA512,
}
_EC_SIGNATURES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_MAX_LOADED = 64


class KeyType(enum.Enum):
    """The JWK ``kty`` of a key."""

    RSA = "RSA"
    RSA_HSM = "RSA-HSM"
    EC = "EC"
    EC_HSM = "EC-HSM"

    @property
    def is_rsa(self) -> bool:
        """Whether it is an RSA key."""
        return self in {KeyType.RSA, KeyType.RSA_HSM}


class KeyOperation(enum.Enum):
    """An entry of a key's ``key_ops``."""

    ENCRYPT = "encrypt"
    DECRYPT = "decrypt"
    SIGN = "sign"
    VERIFY = "verify"
    WRAP = "wrapKey"
    UNWRAP = "unwrapKey"


_OPERATIONS = {True: tuple(KeyOperation), False: (KeyOperation.SIGN, KeyOperation.VERIFY)}
_OUTSIDE_VALIDITY = {KeyOperation.DECRYPT, KeyOperation.UNWRAP, KeyOperation.VERIFY}


def default_operations(key_type: KeyType) -> tuple[KeyOperation, ...]:
    """Return what a key of this type does unless told otherwise."""
    return _OPERATIONS[key_type.is_rsa]


def generate(key_type: KeyType, *, size: int | None, curve: str | None) -> PrivateKey:
    """Make a key pair.

    Args:
        key_type: RSA or EC.
        size: Bits of an RSA key; 2048 by default.
        curve: JWK name of an EC key's curve; P-256 by default.

    Raises:
        VaultError: 400, no such size or curve.
    """
    if key_type.is_rsa:
        bits = 2048 if size is None else size
        if bits not in RSA_SIZES:
            raise bad_parameter(f"Property key_size has invalid value {bits}; expected one of {RSA_SIZES}")
        return rsa.generate_private_key(public_exponent=65537, key_size=bits)
    kind = _CURVES.get("P-256" if curve is None else curve)
    if kind is None:
        raise bad_parameter(f"Property crv has invalid value; expected one of {tuple(_CURVES)}")
    return ec.generate_private_key(kind())


def generate_like(key: PrivateKey, key_type: KeyType) -> PrivateKey:
    """Make a new key pair of the same type and size: what rotation wants."""
    if isinstance(key, rsa.RSAPrivateKey):
        return generate(key_type, size=key.key_size, curve=None)
    return generate(key_type, size=None, curve=_CURVE_NAMES[key.curve.name])


def dump(key: PrivateKey) -> Secret:
    """Return the key as PKCS #8 DER."""
    return Secret(
        key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


class Keyring:
    """Loaded private keys, by version: reading an RSA key from DER costs more than using it."""

    def __init__(self) -> None:
        self._load = lru_cache(maxsize=_MAX_LOADED)(_load)

    def load(self, material: Secret) -> PrivateKey:
        """Return the key of what :func:`dump` gave."""
        return self._load(material.reveal())


def _load(data: bytes) -> PrivateKey:
    key = serialization.load_der_private_key(data, password=None)
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise bad_parameter(f"Stored key has an unknown type {type(key).__name__}")
    return key


def public_jwk(key: PrivateKey) -> dict[str, str]:
    """Return the public members of the key's JWK (RFC 7518 section 6)."""
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        return {"n": _number(numbers.n), "e": _number(numbers.e)}
    point, size = key.public_key().public_numbers(), (key.curve.key_size + 7) // 8
    return {"crv": _CURVE_NAMES[key.curve.name], "x": _number(point.x, size), "y": _number(point.y, size)}


def _number(value: int, size: int | None = None) -> str:
    return encode_base64url(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def encode_base64url(data: bytes) -> str:
    """Return base64url without padding, as the vault's JSON has it (RFC 7515 section 2)."""
    return encode_base64(data).rstrip("=").replace("+", "-").replace("/", "_")


def check_permitted(
    operation: KeyOperation, operations: frozenset[KeyOperation], attributes: Attributes, *, now: int
) -> None:
    """Refuse an operation that a key may not do, or not now.

    Raises:
        VaultError: 403 ``KeyDisabled``, ``KeyOperationForbidden``, ``KeyNotYetValid`` or ``KeyExpired``.
    """
    name = operation.value
    if not attributes.enabled:
        raise forbidden(f"Operation {name} is not allowed on a disabled key.", "KeyDisabled")
    if operation not in operations:
        raise forbidden(f"Operation {name} is not permitted on this key.", "KeyOperationForbidden")
    if operation in _OUTSIDE_VALIDITY:
        return
    if attributes.not_before is not None and now < attributes.not_before:
        raise forbidden(f"Operation {name} is not allowed on a not yet valid key.", "KeyNotYetValid")
    if attributes.expires is not None and now >= attributes.expires:
        raise forbidden(f"Operation {name} is not allowed on an expired key.", "KeyExpired")


def encrypt(key: PrivateKey, algorithm: str, value: bytes) -> bytes:
    """Encrypt or wrap ``value`` under the public half.

    Raises:
        VaultError: 400, the algorithm does not fit the key or the value is too long for it.
    """
    if not isinstance(key, rsa.RSAPrivateKey):
        raise _unfit(algorithm)
    scheme = _encryption_padding(algorithm)
    try:
        return key.public_key().encrypt(value, scheme)
    except ValueError as error:
        raise bad_parameter("The parameter is incorrect.") from error


def decrypt(key: PrivateKey, algorithm: str, value: bytes) -> bytes:
    """Decrypt or unwrap ``value``; every failure looks the same.

    Raises:
        VaultError: 400, the algorithm does not fit the key, or the value was not made for it.
    """
    if not isinstance(key, rsa.RSAPrivateKey):
        raise _unfit(algorithm)
    scheme = _encryption_padding(algorithm)
    try:
        return key.decrypt(value, scheme)
    except ValueError as error:  # no oracle: never why
        raise bad_parameter("The parameter is incorrect.") from error


def sign(key: PrivateKey, algorithm: str, digest: bytes) -> bytes:
    """Sign a digest; an EC signature is r‖s, each as long as the curve's order (RFC 7518 section 3.4).

    Raises:
        VaultError: 400, the algorithm does not fit the key, or the digest's length the algorithm.
    """
    digest_hash = _signature_hash(key, algorithm, digest)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(digest, _signature_padding(algorithm, digest_hash), utils.Prehashed(digest_hash))
    r, s = utils.decode_dss_signature(key.sign(digest, ec.ECDSA(utils.Prehashed(digest_hash))))
    size = (key.curve.key_size + 7) // 8
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def verify(key: PrivateKey, algorithm: str, digest: bytes, signature: bytes) -> bool:
    """Tell whether a signature of a digest holds.

    Raises:
        VaultError: 400 as for :func:`sign`.
    """
    digest_hash = _signature_hash(key, algorithm, digest)
    try:
        if isinstance(key, rsa.RSAPrivateKey):
            scheme = _signature_padding(algorithm, digest_hash)
            key.public_key().verify(signature, digest, scheme, utils.Prehashed(digest_hash))
            return True
        size = (key.curve.key_size + 7) // 8
        if len(signature) != 2 * size:
            return False
        pair = (int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big"))
        der = utils.encode_dss_signature(*pair)
        key.public_key().verify(der, digest, ec.ECDSA(utils.Prehashed(digest_hash)))
    except InvalidSignature:
        return False
    return True


def _unfit(algorithm: str) -> Exception:
    return bad_parameter(f"Algorithm {algorithm[:32]!r} is not supported for this key")


def _encryption_padding(algorithm: str) -> padding.OAEP:
    if algorithm != "RSA-OAEP-256":
        raise _unfit(algorithm)
    return padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


def _signature_hash(key: PrivateKey, algorithm: str, digest: bytes) -> hashes.HashAlgorithm:
    """Return the hash of a JWS algorithm that fits the key, after comparing the digest's length with it."""
    kind = _HASHES.get(algorithm[2:])
    fits = (
        algorithm[:2] in {"RS", "PS"}
        if isinstance(key, rsa.RSAPrivateKey)
        else algorithm == _EC_SIGNATURES[_CURVE_NAMES[key.curve.name]]
    )
    if kind is None or not fits:
        raise _unfit(algorithm)
    chosen = kind()
    if len(digest) != chosen.digest_size:
        raise bad_parameter(
            f"Invalid length of 'value': {len(digest)} bytes; {algorithm} signs {chosen.digest_size}"
        )
    return chosen


def _signature_padding(algorithm: str, digest_hash: hashes.HashAlgorithm) -> padding.PSS | padding.PKCS1v15:
    if algorithm.startswith("PS"):
        return padding.PSS(padding.MGF1(digest_hash), digest_hash.digest_size)
    return padding.PKCS1v15()
