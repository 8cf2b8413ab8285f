"""The audit chain's segments, in memory."""

from __future__ import annotations

import threading

from shared.errors import Conflict, TransportError


class MemorySegments:
    """A :class:`functions.audit_chain.SegmentStore`.

    Attributes:
        segments: What rests, by name; tests tamper with it.
        is_away: Whether it cannot be reached.
        loses_answers: How many appends from now on are taken and answered with a broken connection.
    """

    def __init__(self) -> None:
        self.segments: dict[str, bytearray] = {}
        self.is_away = False
        self.loses_answers = 0
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        self._reach()
        return sorted(self.segments)

    def read(self, name: str, *, offset: int = 0) -> bytes:
        self._reach()
        return bytes(self.segments[name][offset:])

    def create(self, name: str) -> None:
        self._reach()
        self.segments.setdefault(name, bytearray())

    def append(self, name: str, data: bytes, *, offset: int) -> None:
        self._reach()
        with self._lock:
            if len(self.segments[name]) != offset:
                raise Conflict(f"{name}: does not end at {offset}", code="audit_behind")
            self.segments[name] += data
        if self.loses_answers:
            self.loses_answers -= 1
            raise TransportError("the answer was lost", code="storage_unavailable")

    def _reach(self) -> None:
        if self.is_away:
            raise TransportError("the storage is away", code="storage_unavailable")
