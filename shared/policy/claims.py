"""Build the verified claims that a policy speaks about, grouped by who vouches for them (protocol section 7).

A group that nothing vouches for is absent, so that every condition on it denies. Nothing unverified ever
becomes a claim: a certificate comes as a validated path, or not at all.

Example:
    >>> claims = {
    ...     **hub_claims(device_id="edge-01", status="enabled", tags={"class": "gateway"}),
    ...     **certificate_claims(path, spki=key.spki, device_id="edge-01"),
    ... }
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from shared.certificates import build_name_of, device_id_of, leaf_public_key

if TYPE_CHECKING:
    from shared.certificate_paths import ValidatedPath
    from shared.public_keys import KeyKind
    from shared.types import KeyName, WrapAlgorithm

Claims = Mapping[str, object]
"""Verified claims by group: ``hub`` ``x509`` ``attestation`` ``caller`` ``request``, each a mapping."""


def certificate_claims(
    path: ValidatedPath | None, *, spki: bytes, device_id: str | None
) -> dict[str, object]:
    """Return the ``x509`` group.

    Args:
        path: The validated path, or None where there is no certificate or it did not validate.
        spki: The public key that a class key would be wrapped for, DER SubjectPublicKeyInfo.
        device_id: The device that asks, or None where a build machine does: then ``device_id_matches`` is
            absent.

    Returns:
        ``{"x509": …}`` with ``chain_root_sha256`` (hex), ``key_matches``, ``not_after`` (Unix seconds),
        ``issuer`` (RFC 4514), and, as they apply, ``device_id_matches`` and ``build_name``. Empty without a
        path.
    """
    if path is None:
        return {}
    claims: dict[str, object] = {
        "chain_root_sha256": path.root_sha256,
        "key_matches": leaf_public_key(path.leaf) == spki,
        "not_after": int(path.leaf.not_valid_after_utc.timestamp()),
        "issuer": path.leaf.issuer.rfc4514_string(),
    }
    if device_id is not None:
        claims["device_id_matches"] = device_id_of(path.leaf) == device_id
    build_name = build_name_of(path.leaf)
    if build_name is not None:
        claims["build_name"] = build_name
    return {"x509": claims}


def hub_claims(*, device_id: str, status: str, tags: Mapping[str, object]) -> dict[str, object]:
    """Return the ``hub`` group, ``{"hub": …}``.

    Args:
        device_id: The device's id, or ``device/module``.
        status: ``enabled`` or ``disabled``, from the device's identity.
        tags: The twin's tags, which only the service side can write.
    """
    return {"hub": {"device_id": device_id, "status": status, "tags": tags}}


def request_claims(
    *, key_name: KeyName, key_kind: KeyKind, algorithm: WrapAlgorithm | None, key_version: int | None
) -> dict[str, object]:
    """Return the ``request`` group, ``{"request": …}``: what a build machine asks for.

    Args:
        key_name: The class key.
        key_kind: The kind of the public key to wrap for.
        algorithm: The one asked for; None leaves the claim out.
        key_version: The version asked for; None leaves the claim out.
    """
    claims: dict[str, object] = {"key_name": key_name, "key_kind": key_kind.value}
    if algorithm is not None:
        claims["algorithm"] = algorithm.value
    if key_version is not None:
        claims["key_version"] = key_version
    return {"request": claims}
