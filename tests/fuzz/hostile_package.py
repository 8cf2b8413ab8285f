"""What hostile bytes may do to the reader: nothing but its own errors; for the fuzzer and the tests."""

from __future__ import annotations

import enum
import io
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from shared.certificate_paths import TrustStore
from shared.cpk.opening import KeyReference, Requirements, inspect_package, open_package
from shared.errors import FormatError, KeyUnavailable, VerificationError
from shared.types import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

VECTORS = Path(__file__).parents[1] / "vectors" / "cpk"
CORPUS = Path(__file__).parent / "corpus"

MAX_BYTES = 16 << 10
"""Larger vectors differ from smaller ones by their payload only."""

_AT = datetime(2026, 11, 20, tzinfo=UTC)
_TRUST = TrustStore.from_pem(
    b"".join((VECTORS / f"{prefix}trust.pem").read_bytes() for prefix in ("", "x-", "y-")), where="trust.pem"
)
# As lenient as a policy can be, so that as many steps as possible are reached.
_LENIENT = Requirements(payload_signature=False, encryption=False, insecure_demo_key=True)


class Outcome(enum.Enum):
    """How far a file came."""

    MALFORMED = "malformed"
    REFUSED = "refused"
    OPENED = "opened"


def read_hostile(data: bytes) -> Outcome:
    """Inspect and open ``data``; whatever is raised beside the reader's three errors is a fault of it."""
    try:
        inspect_package(io.BytesIO(data), len(data))
    except FormatError:
        return Outcome.MALFORMED
    try:
        open_package(
            io.BytesIO(data),
            len(data),
            class_key=_class_key,
            trust=_TRUST,
            at=_AT,
            requirements=_LENIENT,
            sink=lambda _chunk: None,
            parallel=False,
        )
    except (FormatError, VerificationError, KeyUnavailable):
        return Outcome.REFUSED
    return Outcome.OPENED


def seeds() -> Iterator[bytes]:
    """Yield the vectors that are small."""
    for path in sorted(VECTORS.glob("*.cpk")):
        if path.stat().st_size <= MAX_BYTES:
            yield path.read_bytes()


def _class_key(reference: KeyReference) -> Secret:
    return Secret(bytes(reference.strength // 8))
