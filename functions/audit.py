"""Audit records: what was asked for a class key or changed, who decided, and why.

One record is one JSON object, the message of the logger ``audit``. It names keys, devices and rules, and
never holds key material.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass

_LOG = logging.getLogger("audit")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One decision.

    Args:
        event: ``distribute`` ``wrap`` ``provision`` ``import`` ``rotate`` ``revoke`` ``rewrap``
            ``delete`` or ``recover``.
        outcome: ``allowed`` or ``denied``; ``failed`` if it was allowed and could not be done.
        correlation_id: What finds the request or pass in the logs.
        device_id: The device, if it is about one.
        key_name: The class key; None if the decision is about all of a device's keys.
        key_version: Its version, if it is about one.
        rule: The policy rule that allowed it.
        reason: Stable code: why.
        detail: What was expected and found.
        policy_sha256: Hex digest of the policy that decided.
    """

    event: str
    outcome: str
    correlation_id: str
    device_id: str | None = None
    key_name: str | None = None
    key_version: int | None = None
    rule: str | None = None
    reason: str | None = None
    detail: str | None = None
    policy_sha256: str | None = None


def write_record(record: AuditRecord) -> None:
    """Write a record."""
    _LOG.info("%s", json.dumps(asdict(record), separators=(",", ":")))
