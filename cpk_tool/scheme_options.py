"""Which schemes a package is written with: a profile, and what departs from it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from shared.cpk.hashing import HashAlgorithm
from shared.cpk.profiles import POST_QUANTUM, PROFILES, REFERENCE, Cipher, Profile
from shared.cpk.schemes import MAX_SEGMENT_SIZE, MIN_SEGMENT_SIZE, SignatureScheme

if TYPE_CHECKING:
    import argparse

_DIGESTED = ("payload", "ciphertext")


def add_schemes(parser: argparse.ArgumentParser) -> None:
    """Declare profile and schemes."""
    group = parser.add_argument_group("schemes")
    group.add_argument(
        "--profile",
        choices=tuple(PROFILES),
        default=REFERENCE.name,
        help="reference: what every reader knows, AES-GCM and RSA (default); recommended: segments bound to "
        "the manifest, no digest of the clear payload, any signing key; post-quantum: as recommended, "
        "ML-DSA-65 and 256-bit keys only",
    )
    group.add_argument(
        "--encryption",
        choices=tuple(cipher.value for cipher in Cipher),
        help="instead of the profile's; the class key's length says which AES it is",
    )
    group.add_argument(
        "--segment-size",
        type=int,
        metavar="BYTES",
        help=f"of aes-gcm-stream, a power of two from {MIN_SEGMENT_SIZE} to {MAX_SEGMENT_SIZE}",
    )
    group.add_argument(
        "--digest",
        choices=tuple(algorithm.value for algorithm in HashAlgorithm),
        help="instead of the profile's, where the signature scheme does not fix it",
    )
    group.add_argument(
        "--digest-of",
        choices=_DIGESTED,
        help="digest and sign the payload in clear, or its ciphertext, which tells nothing about it",
    )


def chosen_scheme(options: argparse.Namespace) -> SignatureScheme | None:
    """Return the signature scheme that ``--signature-scheme`` names, if it does."""
    name = options.signature_scheme
    return SignatureScheme(name) if name is not None else None


def chosen_profile(options: argparse.Namespace) -> Profile:
    """Return the profile with what the command line changes in it.

    A scheme that is asked for by name may be any, except under post-quantum, which takes no weaker one.
    """
    profile = PROFILES[options.profile]
    changes: dict[str, object] = {}
    if options.encryption is not None:
        changes["cipher"] = Cipher(options.encryption)
    if options.segment_size is not None:
        changes["segment_size"] = options.segment_size
    if options.digest is not None:
        changes["digest"] = HashAlgorithm(options.digest)
    if options.digest_of is not None:
        changes["of_ciphertext"] = options.digest_of == "ciphertext"
    if profile is not POST_QUANTUM and (changes or options.signature_scheme is not None):
        changes |= {"name": f"{profile.name} with other schemes", "signatures": tuple(SignatureScheme)}
    return dataclasses.replace(profile, **changes)  # type: ignore[arg-type] # each value is its field's


def scheme_problems(options: argparse.Namespace) -> list[str]:
    """Return what is wrong with the options of :func:`add_schemes`, one line each."""
    size = options.segment_size
    if size is None:
        return []
    problems = []
    if not MIN_SEGMENT_SIZE <= size <= MAX_SEGMENT_SIZE or size & (size - 1):
        problems.append(
            f"--segment-size: expected a power of two from {MIN_SEGMENT_SIZE} to {MAX_SEGMENT_SIZE}, "
            f"found {size}"
        )
    if chosen_profile(options).cipher is not Cipher.AES_GCM_STREAM:
        problems.append("--segment-size: expected with aes-gcm-stream only")
    return problems
