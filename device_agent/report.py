"""What the twin's reported properties are to say, computed whole from what the CPM says (protocol section 4).

The agent never keeps patches: it compares this with what the twin holds and sends the difference. So what
could not be sent never grows and is never stale, and nothing is sent when nothing changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.twin.documents import (
    CERTIFICATES,
    PUBLIC_KEY,
    STATUS,
    KeyReport,
    PackageReport,
    reported_identity,
    reported_status,
)
from shared.twin.sections import apply_patch, patch_between

if TYPE_CHECKING:
    from collections.abc import Mapping

    from device_agent.certificate import DeviceCertificate
    from device_agent.cpm_client import CpmStatus, DeviceKey
    from shared.errors import EdbError
    from shared.types import KeyName

IDENTITY = frozenset({PUBLIC_KEY, CERTIFICATES})
"""The properties that say whose device this is."""

OWNED = frozenset({*IDENTITY, STATUS})
"""The reported properties that are the agent's; it never touches another."""

_REPORTED_CODES = frozenset(
    {
        "unsupported_algorithm",
        "unwrap_failed",
        "signature_invalid",
        "replay",
        "rollback",
        "expired",
        "wrong_device",
        "key_mismatch",
        "name_invalid",
        "storage_full",
        "cpm_unavailable",
    }
)


def reported_code(error: EdbError) -> str:
    """Return the code under which the protocol reports an error; ``internal`` if it has none for it."""
    return error.code if error.code in _REPORTED_CODES else "internal"


def wanted_report(
    *,
    key: DeviceKey,
    certificate: DeviceCertificate | None,
    status: CpmStatus,
    errors: Mapping[KeyName, KeyReport],
) -> dict[str, object]:
    """Return all that the agent wants to stand in the reported properties, without nulls.

    Args:
        key: The CPM's device key.
        certificate: The device's certificate, if it has one.
        status: What the CPM holds.
        errors: For each class key that could not be taken, why; it hides an older version that is held.
    """
    held = {
        name: KeyReport(version=entry.version, state="installed", kcv=entry.kcv)
        for name, entry in status.keys.items()
    }
    packages = {
        name: PackageReport(version=entry.version, state=entry.state)
        for name, entry in status.packages.items()
    }
    identity = reported_identity(
        spki=key.spki, certificates_der=None if certificate is None else certificate.der
    )
    report = reported_status(
        algorithms=key.algorithms,
        fingerprint=key.fingerprint,
        sequence=status.sequence,
        keys={**held, **errors},
        packages=packages,
    )
    return apply_patch({}, {**identity, **report})


def open_patch(reported: Mapping[str, object], wanted: Mapping[str, object]) -> dict[str, object]:
    """Return what must be merged into the twin to make it say what is wanted; empty if it does."""
    return patch_between({name: reported[name] for name in OWNED & reported.keys()}, wanted)
