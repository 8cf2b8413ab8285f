"""``host.json``, as far as the host here heeds it; other members are left alone, as the platform does."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared import strict_json
from shared.errors import FormatError, StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_BATCH = 32
"""Most messages of one queue that are taken at once (the platform's limit)."""

_TIME = re.compile(r"(\d{2}):(\d{2}):(\d{2})")


class MessageEncoding(enum.Enum):
    """How a queue message's text carries its bytes."""

    BASE64 = "base64"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """The host's settings.

    Attributes:
        route_prefix: First part of every HTTP route, without slashes.
        batch_size: Messages of one queue that are taken at once.
        new_batch_threshold: More are taken as soon as no more than so many are worked on.
        max_dequeue_count: Tries of a message before it goes to the poison queue.
        visibility_timeout: Seconds that a message waits after a failed try.
        message_encoding: How message text is written.
        event_batch_size: Most events in one call of an event hub function.
        max_concurrent_requests: HTTP functions that run at once.
        max_outstanding_requests: Those that run or wait to; further requests are answered with 429.
    """

    route_prefix: str = "api"
    batch_size: int = 16
    new_batch_threshold: int = 8
    max_dequeue_count: int = 5
    visibility_timeout: int = 0
    message_encoding: MessageEncoding = MessageEncoding.BASE64
    event_batch_size: int = 100
    max_concurrent_requests: int = 100
    max_outstanding_requests: int = 200


def load_host_settings(path: Path) -> HostSettings:
    """Read ``host.json``.

    Raises:
        StorageError: It cannot be read.
        FormatError: It is not strict JSON, or a member that matters here is not what it should be.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    document = strict_json.loads(data, where=str(path))
    root = _Members(document, "", path)
    if root.text("version", "") != "2.0":
        raise FormatError(f'{path}: /version: expected "2.0"')
    extensions = root.child("extensions")
    http, queues, events = (extensions.child(name) for name in ("http", "queues", "eventHubs"))
    batch_size = queues.number("batchSize", 16, low=1, high=MAX_BATCH)
    return HostSettings(
        route_prefix=http.text("routePrefix", "api").strip("/"),
        batch_size=batch_size,
        new_batch_threshold=queues.number("newBatchThreshold", batch_size // 2, low=0, high=1000),
        max_dequeue_count=queues.number("maxDequeueCount", 5, low=1, high=100),
        visibility_timeout=queues.seconds("visibilityTimeout", 0),
        message_encoding=queues.encoding("messageEncoding"),
        event_batch_size=events.number("maxEventBatchSize", 100, low=1, high=1000),
        max_concurrent_requests=http.number("maxConcurrentRequests", 100, low=1, high=1000),
        max_outstanding_requests=http.number("maxOutstandingRequests", 200, low=1, high=10_000),
    )


class _Members:
    """An object of the document, with its JSON pointer for messages."""

    def __init__(self, value: object, pointer: str, path: Path) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{path}: {pointer or '/'}: expected an object, found {type(value).__name__}")
        self._members: Mapping[str, object] = value
        self._pointer = pointer
        self._path = path

    def child(self, name: str) -> _Members:
        return _Members(self._members.get(name, {}), f"{self._pointer}/{name}", self._path)

    def text(self, name: str, default: str) -> str:
        value = self._members.get(name, default)
        if not isinstance(value, str):
            raise self._fault(name, "a string", value)
        return value

    def number(self, name: str, default: int, *, low: int, high: int) -> int:
        value = self._members.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._fault(name, f"an integer from {low} to {high}", value)
        return value

    def seconds(self, name: str, default: int) -> int:
        value = self._members.get(name)
        if value is None:
            return default
        match = _TIME.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise self._fault(name, "a time as hh:mm:ss", value)
        hours, minutes, seconds = (int(part) for part in match.groups())
        return hours * 3600 + minutes * 60 + seconds

    def encoding(self, name: str) -> MessageEncoding:
        value = self._members.get(name, "base64")
        try:
            return MessageEncoding(value)
        except ValueError as error:
            raise self._fault(name, "base64 or none", value) from error

    def _fault(self, name: str, expected: str, value: object) -> FormatError:
        return FormatError(f"{self._path}: {self._pointer}/{name}: expected {expected}, found {value!r:.64}")
