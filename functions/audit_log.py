"""Audit: the chain's entries as they rest, for whoever verifies them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from functions.contract import Call, Contract, HttpFunctions, Tag
from shared.wire.audit import AuditEntry, AuditPage, AuditQuery

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions.services import Services
    from shared.audit.chain import Entry

AUDIT = Contract(
    name="Audit",
    method="GET",
    route="audit",
    tag=Tag.READING,
    summary="The audit chain, page by page",
    description="Not verified: that is for who reads it, by docs/spec/release-policy.md section 6.",
    query=AuditQuery,
    answer=AuditPage,
    problems=("audit_damaged",),
)


def blueprint(services: Callable[[], Services]) -> HttpFunctions:
    """Return the function.

    Args:
        services: Puts the services together at the first call.
    """
    functions = HttpFunctions()

    @functions.serve(AUDIT)
    def audit(call: Call) -> AuditPage:
        return _page(services(), AuditQuery.parse(call.query))

    return functions


def _page(services: Services, asked: AuditQuery) -> AuditPage:
    """Return the entries after a number, and the number to go on after if there may be more."""
    entries = services.audit.read(after=asked.after, limit=asked.limit)
    return AuditPage(
        records=tuple(_told(entry) for entry in entries),
        next=entries[-1].seq if len(entries) == asked.limit else None,
    )


def _told(entry: Entry) -> AuditEntry:
    return AuditEntry(seq=entry.seq, prev=entry.prev.hex(), hash=entry.hash.hex(), record=entry.record)
