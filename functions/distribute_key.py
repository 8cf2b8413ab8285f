"""DistributeKey: who starts a distribution, and how its work is spread (protocol section 5).

A timer, or a message on the queue of passes, lists the fleet and puts it on the queue of pages; each page is
reconciled by whichever instance takes it. A twin that changed is reconciled at once.
"""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, List  # noqa: UP035 - the Functions worker knows typing's generics only

import azure.functions as func

from functions.distribution_messages import PageMessage, PassMessage, paged
from functions.endpoint import PAGES_QUEUE, PASSES_QUEUE, QUEUE_CONNECTION
from functions.twin_events import changed_devices
from shared.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions.services import Services
    from shared.types import DeviceId

MAX_PAGE_ATTEMPTS = 3
"""How often devices that failed are put back on the queue; then the next pass has to do."""

_LOG = logging.getLogger(__name__)


def blueprint(services: Callable[[], Services]) -> func.Blueprint:
    """Return the functions.

    Args:
        services: Puts the services together at the first call.
    """
    functions = func.Blueprint()  # type: ignore[no-untyped-call] # the SDK leaves it untyped

    @functions.function_name(name="DistributeKeyTimer")
    @functions.timer_trigger(
        arg_name="timer", schedule="%EDB_DISTRIBUTE_SCHEDULE%", run_on_startup=False, use_monitor=True
    )
    @functions.queue_output(arg_name="pages", queue_name=PAGES_QUEUE, connection=QUEUE_CONNECTION)
    def distribute_key_timer(timer: func.TimerRequest, pages: func.Out[List[str]]) -> None:  # noqa: UP006 - see the import
        del timer  # late or not, the fleet is looked at
        _enqueue_fleet(services(), pages, cause="timer", correlation_id=uuid.uuid4().hex)

    @functions.function_name(name="DistributeKeyPass")
    @functions.queue_trigger(arg_name="message", queue_name=PASSES_QUEUE, connection=QUEUE_CONNECTION)
    @functions.queue_output(arg_name="pages", queue_name=PAGES_QUEUE, connection=QUEUE_CONNECTION)
    def distribute_key_pass(message: func.QueueMessage, pages: func.Out[List[str]]) -> None:  # noqa: UP006 - see the import
        asked = PassMessage.parse(message.get_body())
        _enqueue_fleet(services(), pages, cause=asked.cause, correlation_id=asked.correlation_id)

    @functions.function_name(name="DistributeKeyPage")
    @functions.queue_trigger(arg_name="message", queue_name=PAGES_QUEUE, connection=QUEUE_CONNECTION)
    @functions.queue_output(arg_name="again", queue_name=PAGES_QUEUE, connection=QUEUE_CONNECTION)
    def distribute_key_page(message: func.QueueMessage, again: func.Out[str]) -> None:
        page = PageMessage.parse(message.get_body())
        one_pass = services().distributor.begin_pass(correlation_id=page.correlation_id)
        failed = one_pass.reconcile_all(page.devices)
        _put_back(failed, again, attempt=page.attempt + 1, correlation_id=page.correlation_id)

    @functions.function_name(name="DistributeKeyTwinEvents")
    @functions.event_hub_message_trigger(
        arg_name="events",
        event_hub_name="%EDB_TWIN_EVENTS_HUB%",
        connection="EDB_TWIN_EVENTS",
        cardinality=func.Cardinality.MANY,
    )
    @functions.queue_output(arg_name="again", queue_name=PAGES_QUEUE, connection=QUEUE_CONNECTION)
    def distribute_key_twin_events(
        events: List[func.EventHubEvent],  # noqa: UP006 - see the import
        again: func.Out[str],
    ) -> None:
        devices = changed_devices(events)
        if not devices:
            return
        correlation_id = uuid.uuid4().hex
        try:
            one_pass = services().distributor.begin_pass(correlation_id=correlation_id)
            failed = one_pass.reconcile_all(devices)
        except TransportError as error:
            # Events are passed over after a few failures; a queue keeps what is to be done.
            _LOG.warning("distribute_postponed", extra={"code": error.code, "devices": len(devices)})
            failed = devices
        _put_back(failed, again, attempt=1, correlation_id=correlation_id)

    return functions


def _enqueue_fleet(
    services: Services, pages: func.Out[list[str]], *, cause: str, correlation_id: str
) -> None:
    messages = [
        page.encode()
        for devices in services.registry.candidates()
        for page in paged(devices, correlation_id=correlation_id)
    ]
    if messages:
        pages.set(messages)
    _LOG.info(
        "distribution_pass",
        extra={"cause": cause, "correlation_id": correlation_id, "pages": len(messages)},
    )


def _put_back(failed: list[DeviceId], again: func.Out[str], *, attempt: int, correlation_id: str) -> None:
    """Put devices that failed on the queue once more, alone, so that the others are not done again."""
    if not failed:
        return
    if attempt > MAX_PAGE_ATTEMPTS:
        _LOG.error(
            "distribute_given_up",
            extra={"devices": len(failed), "first": failed[0], "correlation_id": correlation_id},
        )
        return
    page = PageMessage(devices=failed, attempt=attempt, correlation_id=correlation_id)
    again.set(page.encode())
