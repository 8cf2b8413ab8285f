"""JSON of ``/api/policy``; the policy itself is a document of its own (release-policy.md)."""

from __future__ import annotations

from dataclasses import dataclass, field

from shared.wire import values
from shared.wire.objects import wire


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyAnswer:
    """200 of PublishPolicy."""

    id: str = field(metadata=wire(values.TEXT, "The policy's id."))
    serial: int = field(metadata=wire(values.COUNT, "Its serial."))
    sha256: str = field(metadata=wire(values.DIGEST, "SHA-256 of its bytes, as audit records name it."))
