"""A signing key in a PEM file, in the clear or under a passphrase."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cpk_tool.key_files import load_private_key
from shared.cpk.signing import PrivateKey, Role, sign
from shared.cpk.signing_keys import VerificationKey, load_verification_key
from shared.errors import FormatError

if TYPE_CHECKING:
    from pathlib import Path

    from cpk_tool.passphrase import PassphraseSource
    from shared.cpk.schemes import SignatureScheme

_KINDS = (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey, mldsa.MLDSA65PrivateKey)


class PemSigningKey:
    """A :class:`cpk_tool.signing_keys.port.SigningKey` in this process's memory.

    Args:
        private_key: The key.
        public_key: Its public half, checked.
    """

    is_reproducible = True

    def __init__(self, private_key: PrivateKey, public_key: VerificationKey) -> None:
        self._private_key = private_key
        self.public_key = public_key

    @classmethod
    def load(cls, path: Path, passphrase: PassphraseSource) -> PemSigningKey:
        """Read a key; the passphrase is asked for only if it is encrypted.

        Raises:
            FormatError: It is no private key that signs packages, or the passphrase does not open it.
            UsageError: It is encrypted, and there is no way to a passphrase.
            OSError: It cannot be read.
        """
        private_key = load_private_key(path, passphrase)
        if not isinstance(private_key, _KINDS):
            raise FormatError(f"{path}: expected an RSA, EC, Ed25519 or ML-DSA-65 key, found another kind")
        public = private_key.public_key()
        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return cls(private_key, load_verification_key(spki, where=str(path)))

    def sign(self, scheme: SignatureScheme, digest: bytes, role: Role) -> bytes:
        """Return the signature over a digest."""
        return sign(self._private_key, scheme, digest, role)

    def close(self) -> None:
        """Do nothing: the key goes with the process."""
