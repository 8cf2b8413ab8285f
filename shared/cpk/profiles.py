"""Profiles: which schemes a new package uses (specification, section 8).

``reference`` is what the reference tool reads; ``recommended`` is what this project would have everybody use;
``post-quantum`` keeps what was recorded today shut against a quantum computer of tomorrow. A profile only
says how to write: every reader reads every scheme.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.cpk.hashing import HashAlgorithm
from shared.cpk.schemes import (
    AES_STRENGTHS,
    CHACHA20_STRENGTH,
    MAX_SEGMENT_SIZE,
    NONCE_SIZE,
    PREFIX_SIZE,
    SALT_SIZE,
    SignatureScheme,
)
from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Cipher(enum.Enum):
    """How a payload is encrypted; the value is the manifest's tag."""

    AES_GCM = "aes-gcm"
    CHACHA20_POLY1305 = "chacha20-poly1305"
    AES_GCM_STREAM = "aes-gcm-stream"

    @property
    def nonce_size(self) -> int:
        """Fresh random bytes that one payload takes: nonce, or salt and nonce prefix."""
        return SALT_SIZE + PREFIX_SIZE if self is Cipher.AES_GCM_STREAM else NONCE_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Which schemes to write.

    Attributes:
        name: For messages.
        cipher: How the payload is encrypted.
        segment_size: Bytes of a segment in clear, where the cipher has segments.
        of_ciphertext: Whether the payload's digest and signature are over its ciphertext.
        digest: Algorithm of both digests where the signature scheme does not fix it.
        signatures: The schemes that may sign.
        key_strengths: Bits that the class key may have.
    """

    name: str
    cipher: Cipher
    segment_size: int = MAX_SEGMENT_SIZE
    of_ciphertext: bool = False
    digest: HashAlgorithm = HashAlgorithm.SHA256
    signatures: tuple[SignatureScheme, ...] = tuple(SignatureScheme)
    key_strengths: tuple[int, ...] = AES_STRENGTHS

    @property
    def nonce_size(self) -> int:
        """Fresh random bytes that sealing one payload takes."""
        return self.cipher.nonce_size

    @property
    def strengths(self) -> tuple[int, ...]:
        """Bits of a class key that both the profile and its cipher take."""
        if self.cipher is Cipher.CHACHA20_POLY1305:
            return tuple(bits for bits in self.key_strengths if bits == CHACHA20_STRENGTH)
        return self.key_strengths

    def digest_for(self, scheme: SignatureScheme | None) -> HashAlgorithm:
        """Return the algorithm of digests beside this signature scheme: the one it signs, if it fixes one."""
        return (scheme.digest_algorithm if scheme is not None else None) or self.digest

    def check_signature(self, scheme: SignatureScheme) -> None:
        """Hold a signing key to the profile.

        Raises:
            FormatError: It signs by a scheme that the profile does not have.
        """
        if scheme not in self.signatures:
            wanted = " or ".join(each.value for each in self.signatures)
            raise FormatError(
                f"profile {self.name}: expected a key that signs {wanted}, found {scheme.value}",
                hint="choose another --profile, or another signing key",
            )


REFERENCE = Profile(name="reference", cipher=Cipher.AES_GCM, signatures=(SignatureScheme.RSA_PKCS1V15,))
"""Byte for byte what this project wrote from its beginning, and what the reference tool reads."""

RECOMMENDED = Profile(name="recommended", cipher=Cipher.AES_GCM_STREAM, of_ciphertext=True)
"""Segments of 1 MiB bound to the manifest, digests of the ciphertext, whatever key there is."""

POST_QUANTUM = Profile(
    name="post-quantum",
    cipher=Cipher.AES_GCM_STREAM,
    of_ciphertext=True,
    signatures=(SignatureScheme.ML_DSA_65,),
    key_strengths=(256,),
)
"""As recommended, with lattice signatures and 256-bit class keys only."""

PROFILES: Mapping[str, Profile] = {
    profile.name: profile for profile in (REFERENCE, RECOMMENDED, POST_QUANTUM)
}
"""The profiles by name."""
