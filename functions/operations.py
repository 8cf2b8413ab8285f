"""What somebody asks for by hand goes on record: who asked, for what, and what became of it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from functions.audit import AuditRecord, caller_of
from shared.errors import EdbError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from functions.contract import Call
    from functions.services import Services


def record_of(services: Services, call: Call, event: str, **about: Any) -> AuditRecord:  # noqa: ANN401 - the record's own fields
    """Return the record of an operation that was allowed.

    Args:
        services: Tell whether the platform vouches for callers.
        call: Who asks.
        event: What for.
        about: Further fields of the record.
    """
    return AuditRecord(
        event=event,
        outcome="allowed",
        correlation_id=call.correlation_id,
        caller=caller_of(call.headers, entra_in_front=services.entra_in_front),
        **about,
    )


@contextmanager
def on_record(services: Services, record: AuditRecord) -> Iterator[Callable[..., None]]:
    """Write what became of an operation, whatever became of it; gives what notes more of the record's fields.

    Raises:
        TransportError: ``audit_unavailable``; what was done is done.
    """
    noted: dict[str, Any] = {}
    try:
        yield noted.update
    except EdbError as error:
        services.audit.write(replace(record, outcome="failed", reason=error.code, detail=str(error)))
        raise
    services.audit.write(replace(record, **noted))
