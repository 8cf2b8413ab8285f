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
import operator
import secrets
from collections import Counter
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

from functions import telemetry
from shared.errors import EdbError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from functions.audit_chain import AuditChain
    from shared.audit.chain import Entry
    from shared.types import KeyName

MAX_DETAIL: Final = 1024
"""Characters of a record's longest text."""

_LOG = logging.getLogger("audit")
_FAILURES = logging.getLogger(__name__)
_ENCODER = json.JSONEncoder(separators=(",", ":"))
_PRINCIPAL_ID, _PRINCIPAL_NAME = "x-ms-client-principal-id", "x-ms-client-principal-name"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One decision or operation.

    Args:
        event: ``distribute`` ``wrap`` ``provision`` ``import`` ``rotate`` ``advance_rollout``
            ``finish_rollout`` ``abort_rollout`` ``revoke`` ``rewrap`` ``delete`` ``recover``
            ``publish_policy`` ``rebind`` or ``reconcile``.
        outcome: ``allowed`` or ``denied``; ``failed`` if it was allowed and nobody could tell that it was
            done: it may have been, if the answer was lost.
        correlation_id: What finds the request or pass in the logs.
        caller: Who asked, from :func:`caller_of`; None for what the app does by itself.
        device_id: The device, if it is about one.
        keys: What a device is released, all of it, by class key: ``version``, ``algorithm`` and ``rule`` as
            below. None if nothing is released to a device.
        key_name: The class key, if it is about one.
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
    keys: Mapping[KeyName, Mapping[str, object]] | None = None
    key_name: str | None = None
    key_version: int | None = None
    algorithm: str | None = None
    rule: str | None = None
    reason: str | None = None
    detail: str | None = None
    policy_sha256: str | None = None


_FIELDS = tuple(field.name for field in fields(AuditRecord))
_VALUES_OF = operator.attrgetter(*_FIELDS)


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
        time = self._now().isoformat(timespec="microseconds").replace("+00:00", "Z")
        documents = [_document(record, time) for record in records]
        try:
            entries: Sequence[Entry | None] = self._chain.append(documents)
        except EdbError as error:
            _tell(documents, [None] * len(documents))
            for event, count in Counter(record.event for record in records).items():
                telemetry.add(telemetry.AUDIT_FAILURES, count, event=event)
            _FAILURES.error("audit_failed", extra={"code": error.code, "detail": str(error)})
            raise TransportError("the audit chain takes no record now", code="audit_unavailable") from error
        _tell(documents, entries)
        _count(records)

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


def _document(record: AuditRecord, time: str) -> dict[str, object]:
    document: dict[str, object] = dict(zip(_FIELDS, _VALUES_OF(record), strict=True))
    texts = "".join([value for value in document.values() if type(value) is str])
    if len(texts) > MAX_DETAIL or not texts.isascii():
        document = {name: _text(value) for name, value in document.items()}
    document["time"] = time
    document["id"] = secrets.token_hex(16)  # a record is like no other, whatever the clock says
    return document


def _tell(documents: Sequence[Mapping[str, object]], entries: Sequence[Entry | None]) -> None:
    if not _LOG.isEnabledFor(logging.INFO):
        return
    for document, entry in zip(documents, entries, strict=True):
        _LOG.info("%s", _ENCODER.encode(document) if entry is None else _anchored(document, entry))


def _anchored(document: Mapping[str, object], entry: Entry) -> str:
    """Return a record with its entry's number and hash, in ASCII."""
    if entry.canonical is None or not entry.canonical.isascii():
        return _ENCODER.encode({**document, "seq": entry.seq, "hash": entry.hash.hex()})
    return f'{entry.canonical[:-1].decode()},"seq":{entry.seq},"hash":"{entry.hash.hex()}"}}'


def _count(records: Sequence[AuditRecord]) -> None:
    for record in records:
        telemetry.add(telemetry.AUDIT_RECORDS, event=record.event, outcome=record.outcome)
        if record.outcome == "denied":
            telemetry.add(telemetry.DENIALS, event=record.event, reason=record.reason or "none")
        elif record.outcome == "allowed":
            for algorithm, count in Counter(_algorithms(record)).items():
                telemetry.add(telemetry.WRAPS, count, event=record.event, algorithm=algorithm)


def _algorithms(record: AuditRecord) -> list[str]:
    """Return how each key of a record was wrapped."""
    released = [] if record.keys is None else [str(key["algorithm"]) for key in record.keys.values()]
    return released if record.algorithm is None else [*released, record.algorithm]


def _text(value: object) -> object:
    """Return text that any reader can read: bounded, and without lone surrogates."""
    if not isinstance(value, str):
        return value
    short = value if len(value) <= MAX_DETAIL else value[:MAX_DETAIL] + "…"
    return short.encode("utf-8", "backslashreplace").decode("utf-8")
