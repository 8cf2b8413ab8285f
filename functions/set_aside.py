"""What the host has set aside: messages that failed again and again are recorded, device by device.

The host moves a message that fails five times to its queue's poison queue, where nobody looks and where it
ends after a week. From there it comes here: the log tells of it, and the audit chain keeps which devices it
was about, when, and why (``edb audit tail --outcome failed``). Nothing is lost by that: such a device is not
settled, so the next pass takes it up again, and ``edb devices reconcile`` does at once.

A chain that takes no record fails this function in turn. What fails here five times stays in the poison
queue's own poison queue.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import azure.functions as func

from functions import telemetry
from functions.audit import AuditRecord
from functions.distribution_messages import PageMessage, PassMessage
from functions.endpoint import PAGES_POISON, PASSES_POISON, QUEUE_CONNECTION
from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions.services import Services

MAX_TRIES = 5
"""How often the host delivers a message before it sets it aside: ``maxDequeueCount`` of ``host.json``."""

NO_REASON = "internal"
"""Reason of a message that came without one: a fault of the app, or a crash; the log knows more."""

_SHOWN = 256
_LOG = logging.getLogger(__name__)


def blueprint(services: Callable[[], Services]) -> func.Blueprint:
    """Return the functions.

    Args:
        services: Puts the services together at the first call.
    """
    functions = func.Blueprint()  # type: ignore[no-untyped-call] # the SDK leaves it untyped

    @functions.function_name(name="DistributeKeyPagePoison")
    @functions.queue_trigger(arg_name="message", queue_name=PAGES_POISON, connection=QUEUE_CONNECTION)
    def distribute_key_page_poison(message: func.QueueMessage) -> None:
        _record(services(), PAGES_POISON, _of_page(message.get_body()))

    @functions.function_name(name="DistributeKeyPassPoison")
    @functions.queue_trigger(arg_name="message", queue_name=PASSES_POISON, connection=QUEUE_CONNECTION)
    def distribute_key_pass_poison(message: func.QueueMessage) -> None:
        _record(services(), PASSES_POISON, _of_pass(message.get_body()))

    return functions


def is_last_try(message: func.QueueMessage) -> bool:
    """Whether the host sets a message aside if it fails once more."""
    return (message.dequeue_count or 1) >= MAX_TRIES


def _of_page(body: bytes) -> list[AuditRecord]:
    try:
        page = PageMessage.parse(body)
    except FormatError as error:
        return [_of_none(body, error)]
    record = _record_of(page.correlation_id, page.code)
    return [replace(record, device_id=device_id) for device_id in page.devices]


def _of_pass(body: bytes) -> list[AuditRecord]:
    try:
        asked = PassMessage.parse(body)
    except FormatError as error:
        return [_of_none(body, error)]
    record = _record_of(asked.correlation_id, asked.code)
    return [replace(record, detail=f"{record.detail}: the pass that was asked for by {asked.cause}")]


def _record_of(correlation_id: str, code: str | None) -> AuditRecord:
    return AuditRecord(
        event="distribute",
        outcome="failed",
        correlation_id=correlation_id,
        reason=code or NO_REASON,
        detail=f"set aside after {MAX_TRIES} tries",
    )


def _of_none(body: bytes, error: FormatError) -> AuditRecord:
    """Return the record of a message that is none of ours, with as much of it as a record holds."""
    shown = body[:_SHOWN].decode(errors="backslashreplace")
    detail = f"set aside, {error}: {len(body)} bytes that begin with {shown!r}"
    return AuditRecord(
        event="distribute", outcome="failed", correlation_id="", reason=error.code, detail=detail
    )


def _record(services: Services, queue: str, records: list[AuditRecord]) -> None:
    devices = [record.device_id for record in records if record.device_id is not None]
    told = records[0] if records else _record_of("", None)
    _LOG.error(
        "message_set_aside",
        extra={
            "queue": queue,
            "code": told.reason,
            "devices": len(devices),
            "first": devices[0] if devices else None,
            "correlation_id": told.correlation_id,
        },
    )
    telemetry.add(telemetry.DEVICES, len(devices), outcome="set_aside")
    services.audit.write(*records)
