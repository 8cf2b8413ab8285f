"""The audit chain at rest: one chain for the deployment, in segments that only grow (ADR 0010).

Every writer appends where it knows the chain to end. A store takes the bytes only if the segment really ends
there; whoever is late reads what came in between, links its records anew and tries again. So all processes
write one chain, and each entry is bound to all before it, whoever wrote them.

Segments are named by the number of their first entry. One that holds :data:`SEGMENT_ENTRIES` is full, and the
next entry begins the next one, following the last entry of the one before.
"""

from __future__ import annotations

import random
import re
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from shared.audit.chain import START, Entry, Head, link, parse_entry, verify
from shared.errors import Conflict, EdbError, FormatError, TransportError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

SEGMENT_ENTRIES = 10_000
"""Entries of a full segment. An append blob takes 50,000 appends."""

ATTEMPTS = 20
"""How often an append is tried against other writers."""

_SEGMENT = re.compile(r"([0-9]{15})\.jsonl")
_PAUSE_SECONDS = 0.05


class SegmentStore(Protocol):
    """Where segments rest: bytes that are added at the end and never changed.

    All operations raise :class:`shared.errors.TransportError` if it cannot be reached.
    """

    def names(self) -> Sequence[str]:
        """Return the names of all segments, sorted."""
        ...

    def read(self, name: str, *, offset: int = 0) -> bytes:
        """Return a segment's bytes from ``offset`` to its end; nothing if it ends there."""
        ...

    def create(self, name: str) -> None:
        """Make an empty segment; one that is there already stays as it is."""
        ...

    def append(self, name: str, data: bytes, *, offset: int) -> None:
        """Add bytes to the end, all or none, to last over a power cut.

        Raises:
            Conflict: ``audit_behind``; the segment does not end at ``offset``.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tail:
    """Where the chain is known to end: in which segment, at which byte, with which entry."""

    segment: str
    offset: int
    head: Head

    @property
    def is_full(self) -> bool:
        return self.head.seq - _first_of(self.segment) + 1 >= SEGMENT_ENTRIES


class AuditChain:
    """The chain; may be used from several threads, and from several processes over one store.

    Args:
        store: Where its segments rest.
        pause: Waits some seconds between attempts.
    """

    def __init__(self, store: SegmentStore, *, pause: Callable[[float], None] = time.sleep) -> None:
        self._store = store
        self._pause = pause
        self._lock = threading.Lock()
        self._tail: _Tail | None = None

    def append(self, records: Sequence[Mapping[str, object]]) -> list[Entry]:
        """Add records to the end of the chain, all or none; return their entries.

        A record must be like no other: what the store already holds after a failed attempt is recognised by
        its hash.

        Raises:
            TransportError: The store cannot be reached, or others were faster every time. If the store's
                answer was lost, the records may be there.
            VerificationError: What is at the chain's end does not hold; nothing is added to it.
        """
        with self._lock:
            try:
                return self._append(records)
            except EdbError:
                self._tail = None  # nobody knows; it is looked for again
                raise

    def _append(self, records: Sequence[Mapping[str, object]]) -> list[Entry]:
        for attempt in range(ATTEMPTS):
            tail = self._open_tail()
            entries = _linked(tail.head, records)
            data = b"".join([entry.line() for entry in entries])
            try:
                self._store.append(tail.segment, data, offset=tail.offset)
            except Conflict:
                came, self._tail = self._catch_up(tail)
                if came[: len(entries)] == entries:  # the store had taken them, and its answer was lost
                    return entries
                self._pause(random.uniform(0, _PAUSE_SECONDS * (attempt + 1)))  # noqa: S311 - jitter
            else:
                self._tail = _Tail(
                    segment=tail.segment, offset=tail.offset + len(data), head=entries[-1].head
                )
                return entries
        raise TransportError(f"the audit chain: others were faster {ATTEMPTS} times", code="audit_busy")

    def read(self, *, after: int, limit: int) -> list[Entry]:
        """Return up to ``limit`` entries that follow number ``after``, not verified.

        Raises:
            VerificationError: ``audit_damaged``; a line is no entry.
        """
        found: list[Entry] = []
        names = _known(self._store.names())
        begin = max((index for index, name in enumerate(names) if _first_of(name) <= after + 1), default=0)
        for name in names[begin:]:
            for entry in _entries(name, self._store.read(name)):
                if entry.seq > after:
                    found.append(entry)
                if len(found) == limit:
                    return found
        return found

    def check(self) -> None:
        """Look whether the chain could be added to, and add nothing.

        Raises:
            TransportError: The store cannot be reached.
            VerificationError: What is at the chain's end does not hold.
        """
        with self._lock:
            if self._store.names() and self._tail is None:
                self._tail = self._find_tail()

    def _open_tail(self) -> _Tail:
        """Return the chain's end, in a segment that is not full."""
        tail = self._tail if self._tail is not None else self._find_tail()
        if tail.is_full:
            name = _name_of(tail.head.seq + 1)
            self._store.create(name)
            tail = _Tail(segment=name, offset=0, head=tail.head)
        self._tail = tail
        return tail

    def _find_tail(self) -> _Tail:
        names = _known(self._store.names())
        if not names:
            self._store.create(_name_of(1))
            return _Tail(segment=_name_of(1), offset=0, head=START)
        begin = _Tail(segment=names[-1], offset=0, head=self._head_before(names))
        return self._catch_up(begin)[1]

    def _head_before(self, names: Sequence[str]) -> Head:
        """Return the head that the last segment follows."""
        first = _first_of(names[-1])
        if first == 1:
            return START
        if len(names) == 1:
            raise VerificationError(f"the audit chain: what is before {names[-1]} is gone", code="audit_gap")
        before = list(_entries(names[-2], self._store.read(names[-2])))
        if not before or before[-1].seq + 1 != first:
            raise VerificationError(
                f"the audit chain: {names[-2]} does not lead to {names[-1]}", code="audit_gap"
            )
        return before[-1].head

    def _catch_up(self, tail: _Tail) -> tuple[list[Entry], _Tail]:
        """Return what came after a tail in its segment, and the tail after it."""
        data = self._store.read(tail.segment, offset=tail.offset)
        came = list(_entries(tail.segment, data))
        head = verify(came, start=tail.head)
        return came, replace(tail, offset=tail.offset + len(data), head=head)


def _linked(head: Head, records: Sequence[Mapping[str, object]]) -> list[Entry]:
    entries = []
    for record in records:
        entry = link(head, record)
        entries.append(entry)
        head = entry.head
    return entries


def _entries(name: str, data: bytes) -> Iterator[Entry]:
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            yield parse_entry(line, where=f"{name}, line {number}")
        except FormatError as error:
            raise VerificationError(str(error), code="audit_damaged") from error


def _known(names: Sequence[str]) -> list[str]:
    return sorted(name for name in names if _SEGMENT.fullmatch(name))


def _name_of(first: int) -> str:
    return f"{first:015}.jsonl"


def _first_of(name: str) -> int:
    return int(name.partition(".")[0])
