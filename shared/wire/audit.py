"""JSON of ``/api/audit``: entries of the audit chain, as they rest (release-policy.md section 6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.wire import values
from shared.wire.objects import list_of, read_object, wire
from shared.wire.request_fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PAGE = 100
"""Entries of a page where no limit is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuery:
    """Query of ``GET /api/audit``."""

    after: int = field(
        default=0, metadata=wire(values.SEQUENCE, "The number to go on after; 0, the beginning, by default.")
    )
    limit: int = field(
        default=DEFAULT_PAGE,
        metadata=wire(values.PAGE_SIZE, f"Entries of the page; {DEFAULT_PAGE} by default."),
    )

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> AuditQuery:
        """Read the query.

        Raises:
            FormatError: :class:`shared.wire.request_fields.InvalidRequestError` with every fault.
        """
        return read_object(cls, Fields.of_query(parameters))


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One record in its place."""

    seq: int = field(metadata=wire(values.SEQUENCE, "Its number, from 1, without a gap."))
    prev: str = field(
        metadata=wire(values.DIGEST, "The hash of the entry before it; zeros before the first.")
    )
    hash: str = field(metadata=wire(values.DIGEST, "SHA-256 over prev and the record's canonical JSON."))
    record: Mapping[str, object] = field(metadata=wire(values.ANY_OBJECT, "What is recorded."))


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPage:
    """200 of Audit."""

    records: tuple[AuditEntry, ...] = field(metadata=wire(list_of(AuditEntry), "Entries, in order."))
    next: int | None = field(
        default=None, metadata=wire(values.SEQUENCE, "What to go on after; absent where the chain ends.")
    )
