"""Audit records: who asked for what, what was decided by which rule, and what became of it.

One record is one JSON object, in the audit chain and as a message of the logger ``audit``, there with the
number and hash of its entry: the log is a place of its own, so each of its lines is an anchor for the chain.
A record names keys, devices, callers and rules, and never holds key material.

What the chain does not take did not happen as far as this app can help it: keys are released after their
record is there, and not without.
"""

from __future__ import annotations

import json
import logging
import secrets
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from functions import telemetry
from shared.errors import EdbError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from functions.audit_chain import AuditChain
    from shared.audit.chain import Entry

MAX_DETAIL: Final = 1024
"""Characters of a record's longest text."""

_LOG = logging.getLogger("audit")
_FAILURES = logging.getLogger(__name__)
_PRINCIPAL_ID, _PRINCIPAL_NAME = "x-ms-client-principal-id", "x-ms-client-principal-name"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One decision or operation.

    Args:
        event: ``distribute`` ``wrap`` ``provision`` ``import`` ``rotate`` ``revoke`` ``rewrap`` ``delete``
            ``recover`` ``publish_policy`` ``rebind`` or ``reconcile``.
        outcome: ``allowed`` or ``denied``; ``failed`` if it was allowed and could not be done.
        correlation_id: What finds the request or pass in the logs.
        caller: Who asked, from :func:`caller_of`; None for what the app does by itself.
        device_id: The device, if it is about one.
        key_name: The class key; None if the decision is about all of a device's keys.
        key_version: Its version, if it is about one.
        algorithm: How it was wrapped, if it was.
        rule: The policy rule that allowed it.
        reason: Stable code: why.
        detail: What was expected and found.
        policy_sha256: Hex digest of the policy that decided.
    """

    event: str
    outcome: str
    correlation_id: str
    caller: str | None = None
    device_id: str | None = None
    key_name: str | None = None
    key_version: int | None = None
    algorithm: str | None = None
    rule: str | None = None
    reason: str | None = None
    detail: str | None = None
    policy_sha256: str | None = None


def caller_of(headers: Mapping[str, str], *, entra_in_front: bool, build_name: str | None = None) -> str:
    """Return who calls, in one word: ``entra:<id>``, else ``build:<name>``, else ``function-key``.

    Args:
        headers: The request's. Those of the platform's authentication count only if it is in front.
        entra_in_front: Whether it is.
        build_name: From a certificate that was verified for the caller's own key.

    The platform tells Python functions that a function key was good, and not which one.
    """
    if entra_in_front and headers.get(_PRINCIPAL_ID):
        return f"entra:{headers[_PRINCIPAL_ID]}"
    return "function-key" if build_name is None else f"build:{build_name}"


class AuditLog:
    """Writes records.

    Args:
        chain: Where they are kept.
        now: Tells the time, aware.
    """

    def __init__(self, chain: AuditChain, *, now: Callable[[], datetime]) -> None:
        self._chain = chain
        self._now = now

    def write(self, *records: AuditRecord) -> None:
        """Write records, all or none; no records are nothing to write.

        Raises:
            TransportError: ``audit_unavailable``; the chain did not take them. They stand in the log, and
                whatever they allow must not happen.
        """
        if not records:
            return
        documents = [self._document(record) for record in records]
        try:
            entries: Sequence[Entry | None] = self._chain.append(documents)
        except EdbError as error:
            _tell(documents, [None] * len(documents))
            for record in records:
                telemetry.add(telemetry.AUDIT_FAILURES, event=record.event)
            _FAILURES.error("audit_failed", extra={"code": error.code, "detail": str(error)})
            raise TransportError("the audit chain takes no record now", code="audit_unavailable") from error
        _tell(documents, entries)
        for record in records:
            telemetry.add(telemetry.AUDIT_RECORDS, event=record.event, outcome=record.outcome)
            _count(record)

    def write_if_possible(self, *records: AuditRecord) -> None:
        """Write records of what releases nothing: a chain that takes none is told of, and stops nobody."""
        try:
            self.write(*records)
        except TransportError:
            return  # told already

    def read(self, *, after: int, limit: int) -> list[Entry]:
        """Return entries as they rest; see :meth:`functions.audit_chain.AuditChain.read`."""
        return self._chain.read(after=after, limit=limit)

    def check(self) -> None:
        """Look whether a record could be written; see :meth:`functions.audit_chain.AuditChain.check`."""
        self._chain.check()

    def _document(self, record: AuditRecord) -> dict[str, object]:
        time = self._now().isoformat(timespec="microseconds").replace("+00:00", "Z")
        return {
            "time": time,
            "id": secrets.token_hex(16),  # a record is like no other, whatever the clock says
            **{name: _text(value) for name, value in asdict(record).items()},
        }


def _tell(documents: Sequence[Mapping[str, object]], entries: Sequence[Entry | None]) -> None:
    for document, entry in zip(documents, entries, strict=True):
        anchor = {} if entry is None else {"seq": entry.seq, "hash": entry.hash.hex()}
        _LOG.info("%s", json.dumps({**document, **anchor}, separators=(",", ":")))


def _count(record: AuditRecord) -> None:
    if record.outcome == "denied":
        telemetry.add(telemetry.DENIALS, event=record.event, reason=record.reason or "none")
    elif record.outcome == "allowed" and record.algorithm is not None:
        telemetry.add(telemetry.WRAPS, event=record.event, algorithm=record.algorithm)


def _text(value: str | int | None) -> str | int | None:
    """Return text that any reader can read: bounded, and without lone surrogates."""
    if not isinstance(value, str):
        return value
    short = value if len(value) <= MAX_DETAIL else value[:MAX_DETAIL] + "…"
    return short.encode("utf-8", "backslashreplace").decode("utf-8")
