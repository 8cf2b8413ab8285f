"""Messages on the distribution queues: JSON, small enough for any queue, read as strictly as a request."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from shared import strict_json
from shared.errors import FormatError
from shared.types import DeviceId, parse_device_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEVICES_PER_PAGE = 100
"""A module's id has up to 257 characters; a hundred of them fit twice into a queue message's 48 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassMessage:
    """Asks for a pass over the whole fleet.

    Args:
        cause: What it was asked for by, for the logs.
        correlation_id: What finds it in the logs.
        token: Where the pass goes on; None at its beginning.
        code: Why it was set aside; None if it was not, or if nobody could say.
    """

    cause: str
    correlation_id: str
    token: str | None = None
    code: str | None = None

    def encode(self) -> str:
        """Return the message."""
        return json.dumps({name: value for name, value in asdict(self).items() if value is not None})

    @classmethod
    def parse(cls, body: bytes) -> PassMessage:
        """Read a message.

        Raises:
            FormatError: It is none.
        """
        fields = _object(body)
        return cls(
            cause=_text(fields, "cause"),
            correlation_id=_text(fields, "correlation_id"),
            token=_text(fields, "token") if "token" in fields else None,
            code=_text(fields, "code") if "code" in fields else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PageMessage:
    """Asks to reconcile some devices.

    Args:
        devices: At most :data:`DEVICES_PER_PAGE`.
        attempt: 1, then one more each time that devices are put back because they failed.
        correlation_id: Of the pass.
        code: Why it was set aside; None if it was not, or if nobody could say.
    """

    devices: Sequence[DeviceId]
    attempt: int
    correlation_id: str
    code: str | None = None

    def encode(self) -> str:
        """Return the message."""
        return json.dumps(
            {
                "devices": list(self.devices),
                "attempt": self.attempt,
                "correlation_id": self.correlation_id,
                **({} if self.code is None else {"code": self.code}),
            }
        )

    @classmethod
    def parse(cls, body: bytes) -> PageMessage:
        """Read a message.

        Raises:
            FormatError: It is none.
        """
        fields = _object(body)
        devices, attempt = fields.get("devices"), fields.get("attempt")
        if not isinstance(devices, list) or len(devices) > DEVICES_PER_PAGE:
            raise FormatError(f"queue message: /devices: expected at most {DEVICES_PER_PAGE} ids")
        if type(attempt) is not int or attempt < 1:
            raise FormatError("queue message: /attempt: expected an integer from 1")
        return cls(
            devices=[parse_device_id(each, where="queue message: /devices") for each in devices],
            attempt=attempt,
            correlation_id=_text(fields, "correlation_id"),
            code=_text(fields, "code") if "code" in fields else None,
        )


def paged(devices: Sequence[DeviceId], *, correlation_id: str) -> Iterator[PageMessage]:
    """Cut devices into pages."""
    for start in range(0, len(devices), DEVICES_PER_PAGE):
        yield PageMessage(
            devices=devices[start : start + DEVICES_PER_PAGE], attempt=1, correlation_id=correlation_id
        )


def _object(body: bytes) -> dict[str, object]:
    value = strict_json.loads(body, where="queue message")
    if not isinstance(value, dict):
        raise FormatError(f"queue message: expected an object, found {type(value).__name__}")
    return value


def _text(fields: dict[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise FormatError(f"queue message: /{name}: expected text, found {type(value).__name__}")
    return value
