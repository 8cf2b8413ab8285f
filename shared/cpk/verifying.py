"""Whether a package carries what it must, and whether its digests and signatures hold (specification, 7).

What a package must carry is the verifier's policy, :class:`Requirements`; a package's own ``"none"`` never
decides. Whatever it does carry must hold, required or not. Whom it may be signed by is decided in
:mod:`shared.cpk.trust`.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature

from shared.cpk.digests import PackageDigests, signed_algorithm
from shared.cpk.signing import Role, verify
from shared.cpk.trust import Trust, TrustedSigner, trusted_signer
from shared.errors import VerificationError

if TYPE_CHECKING:
    from datetime import datetime

    from shared.cpk.manifest import PackageSection, Payload
    from shared.cpk.package import Package
    from shared.cpk.schemes import Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What a package must carry to be accepted.

    Attributes:
        payload_signature: The payload must be signed.
        package_signature: The package as a whole must be signed.
        encryption: The payload must be encrypted.
        insecure_demo_key: Accept the reference tool's public demo key; for nothing but demonstrations.
    """

    payload_signature: bool = True
    package_signature: bool = False
    encryption: bool = True
    insecure_demo_key: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Signers:
    """Who signed the payload and the package; ``None`` where that signature is absent and not required."""

    payload: TrustedSigner | None
    package: TrustedSigner | None


def check_requirements(package: Package, requirements: Requirements) -> None:
    """Refuse a package that lacks what is required (steps 1 and 2).

    Raises:
        VerificationError: ``unencrypted``, ``unsigned``, ``package_unsigned`` or ``map_incomplete``.
    """
    payload, whole = package.manifest.payload, package.manifest.package
    if requirements.encryption and payload.encryption is None:
        raise VerificationError('payload: expected it to be encrypted, found enc "none"', code="unencrypted")
    if requirements.payload_signature and payload.signature is None:
        raise VerificationError(
            'payload: expected a signature, found sig "none"',
            code="unsigned",
            hint="build the package with --sign-key and --cert",
        )
    if requirements.package_signature and whole.signature is None:
        raise VerificationError(
            'package: expected a signature over the whole package, found sig "none"', code="package_unsigned"
        )
    if (
        payload.signature is not None
        and payload.digest is not None
        and payload.digest.of_ciphertext
        and whole.signature is None
    ):
        # A signature over ciphertext says nothing about the key and the nonce that it is decrypted with.
        raise VerificationError(
            "package: expected a signature over the whole package, because the payload's is over its "
            'ciphertext, found sig "none"',
            code="package_unsigned",
        )
    if package.uncovered:
        missing = ", ".join(map(str, package.uncovered))
        raise VerificationError(
            f"package map: expected it to cover the manifest and every stream that the manifest names, "
            f"found streams {missing} left out",
            code="map_incomplete",
        )


def check_signers(package: Package, *, trust: Trust, at: datetime, requirements: Requirements) -> Signers:
    """Decide for each signature that the package carries whether its signer is trusted (step 3).

    Args:
        package: From ``inspect_package``.
        trust: What the verifier goes by.
        at: The time to judge certificates at, aware.
        requirements: Whether the public demo key is to be refused.

    Raises:
        VerificationError: As for :func:`shared.cpk.trust.trusted_signer`.
    """

    def signer(section: Payload | PackageSection, what: str) -> TrustedSigner | None:
        if section.signature is None:
            return None
        return trusted_signer(
            package,
            section.certification,
            signature=section.signature,
            what=what,
            trust=trust,
            at=at,
            insecure_demo_key=requirements.insecure_demo_key,
        )

    return Signers(
        payload=signer(package.manifest.payload, "payload"),
        package=signer(package.manifest.package, "package"),
    )


def check_payload(package: Package, signers: Signers, digests: PackageDigests) -> None:
    """Check the payload's digest, then its signature (step 7).

    Raises:
        VerificationError: ``digest_mismatch`` or ``payload_signature_invalid``.
    """
    section = package.manifest.payload
    if section.digest is not None:
        computed = digests.payload(section.digest.algorithm)
        _check_digest(package.contents[section.digest.data], computed, "payload", "digest_mismatch")
    if section.signature is not None and signers.payload is not None:
        computed = digests.payload(signed_algorithm(section.signature, section.digest))
        check_signature(
            signers.payload,
            section.signature,
            package.contents[section.signature.data],
            computed,
            role=Role.PAYLOAD,
        )


def check_package(package: Package, signers: Signers, digests: PackageDigests) -> None:
    """Check the digest over the mapped streams, then the signature over them (step 8).

    Raises:
        VerificationError: ``package_digest_mismatch`` or ``package_signature_invalid``.
    """
    section = package.manifest.package
    if section.digest is not None:
        computed = digests.package(section.digest.algorithm)
        _check_digest(package.contents[section.digest.data], computed, "package", "package_digest_mismatch")
    if section.signature is not None and signers.package is not None:
        computed = digests.package(signed_algorithm(section.signature, section.digest))
        check_signature(
            signers.package,
            section.signature,
            package.contents[section.signature.data],
            computed,
            role=Role.PACKAGE,
        )


def check_signature(
    signer: TrustedSigner, scheme: Signature, signature: bytes, computed: bytes, *, role: Role
) -> None:
    """Verify a signature over a computed digest.

    Raises:
        VerificationError: ``payload_signature_invalid`` or ``package_signature_invalid``; it does not hold.
    """
    try:
        verify(signer.key.key, scheme.scheme, signature, computed, role)
    except InvalidSignature as error:
        raise VerificationError(
            f"{role.value} signature: {scheme.scheme.value} does not hold under the key of {signer.subject}",
            code=f"{role.value}_signature_invalid",
        ) from error


def _check_digest(expected: bytes, computed: bytes, what: str, code: str) -> None:
    if not hmac.compare_digest(expected, computed):
        raise VerificationError(
            # The computed one stays untold: it may be the clear digest of a payload that hides it.
            f"{what} digest: expected {expected.hex()} as the package says, found another",
            code=code,
        )
