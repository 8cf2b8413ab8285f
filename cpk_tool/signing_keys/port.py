"""The port behind which every signing key stands, and the signer that is made of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cryptography.exceptions import InvalidSignature

from shared.cpk.signing import Role, SignerCertification, verify
from shared.errors import VerificationError

if TYPE_CHECKING:
    from shared.cpk.schemes import SignatureScheme
    from shared.cpk.signing_keys import VerificationKey


class SigningKey(Protocol):
    """A private key that can sign, wherever it lives; used by one thread."""

    @property
    def public_key(self) -> VerificationKey | None:
        """Its public half, if the place where it lives tells it."""

    @property
    def is_reproducible(self) -> bool:
        """Whether its ECDSA signatures are those of RFC 6979: the same ones every time."""

    def sign(self, scheme: SignatureScheme, digest: bytes, role: Role) -> bytes:
        """Return the signature over a digest, in the manifest's encoding.

        Args:
            scheme: One that the key's public half verifies.
            digest: Made with the scheme's hash; for a pure scheme with any.
            role: What the digest is over.

        Raises:
            KeyUnavailable: Whoever keeps the key does not let it be used.
            TransportError: Whoever keeps the key cannot be reached.
            EdbError: It does not sign so.
        """

    def close(self) -> None:
        """Let go of the key; may be called again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedSigner:
    """A signing key together with what certifies it: the sealing side's ``Signer``.

    Attributes:
        key: Signs.
        verification_key: Its public half, which every signature is held to before it goes into a package: a
            wrong key, or a token that fails, ends the build and not an installation.
        scheme: How it signs.
        certification: What the package says about the public half.
        subject: Whom it stands for.
    """

    key: SigningKey
    verification_key: VerificationKey
    scheme: SignatureScheme
    certification: SignerCertification
    subject: str

    @property
    def key_strength(self) -> int | None:
        """Bits of the modulus for RSA."""
        return self.verification_key.strength

    @property
    def is_reproducible(self) -> bool:
        """Whether the same digest always gets the same signature."""
        return self.scheme.is_reproducible and (self.key.is_reproducible or not self.scheme.is_ecdsa)

    def sign(self, digest: bytes, role: Role) -> bytes:
        """Return the signature over a digest.

        Raises:
            EdbError: As for :meth:`SigningKey.sign`.
            VerificationError: ``signature_invalid``; what came back is no signature by the certified key.
        """
        signature = self.key.sign(self.scheme, digest, role)
        try:
            verify(self.verification_key.key, self.scheme, signature, digest, role)
        except InvalidSignature as error:
            raise VerificationError(
                f"signing key: its {role.value} signature does not hold under the certified key",
                code="signature_invalid",
                hint="the certificate is another key's, or what keeps the key is at fault",
            ) from error
        return signature
