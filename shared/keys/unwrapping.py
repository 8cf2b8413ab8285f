"""Unwrap a class key with the private key that it was wrapped for (protocol sections 3 and 4).

Only the CPM and the build tool import this module. Whatever goes wrong is one error with one message: telling
a bad padding from a bad length is what turns a device into a decryption oracle (Bleichenbacher, Manger).

A wrong ``RSA1_5`` block does not raise: OpenSSL answers with pseudo-random bytes of pseudo-random length
(implicit rejection), and at 2048 bits about 1 in 80 of those has a class key's length. Nothing here can know
that, so a caller verifies the hash of the wrapped bytes in the signed release first, and the cloud compares
the KCV.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519

from shared.errors import FormatError, VerificationError
from shared.keys.wrapping import KEY_LENGTHS, WRAP_LABEL, WrapContext, hpke_suite, rsa_padding
from shared.types import Secret, WrapAlgorithm

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey
"""A private key that class keys are wrapped for."""

_RSA = frozenset({WrapAlgorithm.RSA_OAEP_256, WrapAlgorithm.RSA1_5})


def unwrap_key(
    wrapped: bytes, private_key: PrivateKey, algorithm: WrapAlgorithm, *, context: WrapContext
) -> Secret:
    """Unwrap a class key.

    Args:
        wrapped: What :func:`shared.keys.wrapping.wrap_key` returned.
        private_key: The receiver's.
        algorithm: What the signed release says; never guessed from the bytes.
        context: What it must have been wrapped for; RSA ignores it.

    Returns:
        16, 24 or 32 bytes.

    Raises:
        VerificationError: ``unwrap_failed``, whatever the reason.
    """
    try:
        opened = _open(wrapped, private_key, algorithm, context)
    except (ValueError, InvalidTag, UnsupportedAlgorithm, FormatError):
        opened = b""
    if len(opened) not in KEY_LENGTHS:
        # Outside the handler on purpose: no chained exception tells the reasons apart.
        raise VerificationError("the wrapped key does not open for this key", code="unwrap_failed")
    return Secret(opened)


def _open(wrapped: bytes, private_key: PrivateKey, algorithm: WrapAlgorithm, context: WrapContext) -> bytes:
    match private_key:
        case rsa.RSAPrivateKey() if algorithm in _RSA:
            return private_key.decrypt(wrapped, rsa_padding(algorithm))
        case ec.EllipticCurvePrivateKey() if algorithm is WrapAlgorithm.HPKE_P256:
            return hpke_suite(algorithm).decrypt(wrapped, private_key, info=context.info(WRAP_LABEL))
        case x25519.X25519PrivateKey() if algorithm is WrapAlgorithm.HPKE_X25519:
            return hpke_suite(algorithm).decrypt(wrapped, private_key, info=context.info(WRAP_LABEL))
        case _:
            return b""
