"""DistributeKey: who starts a distribution, and how its work is spread (protocol section 5).

A timer, or a change of a class key, puts a message on the queue of passes. A pass looks at one row of each
twin, and puts the devices that are not settled on the queue of pages; each page is reconciled by whichever
instance takes it. A pass over a large fleet puts itself back on the queue, to go on from there. A twin that
changed is reconciled at once. A message that cannot be worked on, try after try, is set aside with the
reason: :mod:`functions.set_aside`.
"""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, List  # noqa: UP035 - the Functions worker knows typing's generics only

import azure.functions as func

from functions import deadline
from functions.distribution_messages import PageMessage, PassMessage, paged
from functions.endpoint import PAGES_POISON, PAGES_QUEUE, PASSES_POISON, PASSES_QUEUE, QUEUE_CONNECTION
from functions.set_aside import is_last_try
from functions.twin_events import changed_devices
from shared.errors import EdbError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions.services import Services
    from shared.types import DeviceId

PASS_SECONDS = 60.0
"""How long one message of a pass lists twins; a large fleet takes several."""

WORK_SECONDS = 240.0
"""How long one message is worked on; what is not done by then goes back on the queue. ``functionTimeout`` of
``host.json`` is longer by what a call takes that has begun."""

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
    @functions.queue_output(arg_name="passes", queue_name=PASSES_QUEUE, connection=QUEUE_CONNECTION)
    def distribute_key_timer(timer: func.TimerRequest, passes: func.Out[str]) -> None:
        del timer  # late or not, the fleet is looked at
        passes.set(PassMessage(cause="timer", correlation_id=uuid.uuid4().hex).encode())

    @functions.function_name(name="DistributeKeyPass")
    @functions.queue_trigger(arg_name="message", queue_name=PASSES_QUEUE, connection=QUEUE_CONNECTION)
    @functions.queue_output(arg_name="pages", queue_name=PAGES_QUEUE, connection=QUEUE_CONNECTION)
    @functions.queue_output(arg_name="rest", queue_name=PASSES_QUEUE, connection=QUEUE_CONNECTION)
    @functions.queue_output(arg_name="aside", queue_name=PASSES_POISON, connection=QUEUE_CONNECTION)
    def distribute_key_pass(
        message: func.QueueMessage,
        pages: func.Out[List[str]],  # noqa: UP006 - see the import
        rest: func.Out[str],
        aside: func.Out[str],
    ) -> None:
        _make_pass(services, message, pages=pages, rest=rest, aside=aside)

    @functions.function_name(name="DistributeKeyPage")
    @functions.queue_trigger(arg_name="message", queue_name=PAGES_QUEUE, connection=QUEUE_CONNECTION)
    @functions.queue_output(arg_name="again", queue_name=PAGES_QUEUE, connection=QUEUE_CONNECTION)
    @functions.queue_output(arg_name="aside", queue_name=PAGES_POISON, connection=QUEUE_CONNECTION)
    def distribute_key_page(message: func.QueueMessage, again: func.Out[str], aside: func.Out[str]) -> None:
        _work_on_page(services, message, again=again, aside=aside)

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
            with deadline.within(WORK_SECONDS):
                one_pass = services().distributor.begin_pass(correlation_id=correlation_id)
                failed = one_pass.reconcile_all(devices)
        except TransportError as error:
            # Events are passed over after a few failures; a queue keeps what is to be done.
            _LOG.warning("distribute_postponed", extra={"code": error.code, "devices": len(devices)})
            failed = devices
        _put_back(failed, again, attempt=1, correlation_id=correlation_id)

    return functions


def _make_pass(
    services: Callable[[], Services],
    message: func.QueueMessage,
    *,
    pages: func.Out[list[str]],
    rest: func.Out[str],
    aside: func.Out[str],
) -> None:
    asked = PassMessage.parse(message.get_body())
    try:
        with deadline.within(WORK_SECONDS):
            found, following = list_unsettled(services(), asked, seconds=PASS_SECONDS)
    except EdbError as error:
        if not is_last_try(message):
            raise
        aside.set(replace(asked, code=error.code).encode())
        return
    if found:
        pages.set([page.encode() for page in found])
    if following is not None:
        rest.set(following.encode())


def _work_on_page(
    services: Callable[[], Services],
    message: func.QueueMessage,
    *,
    again: func.Out[str],
    aside: func.Out[str],
) -> None:
    page = PageMessage.parse(message.get_body())
    with deadline.within(WORK_SECONDS):
        try:
            one_pass = services().distributor.begin_pass(correlation_id=page.correlation_id)
        except EdbError as error:
            if not is_last_try(message):
                raise
            aside.set(replace(page, code=error.code).encode())
            return
        failed = one_pass.reconcile_all(page.devices)
        ran_out = deadline.remaining() <= 0 and len(failed) < len(page.devices)
    attempt = page.attempt if ran_out else page.attempt + 1
    _put_back(failed, again, attempt=attempt, correlation_id=page.correlation_id)


def list_unsettled(
    services: Services, asked: PassMessage, *, seconds: float
) -> tuple[list[PageMessage], PassMessage | None]:
    """Look at a row of each twin, for a while.

    Args:
        services: The deployment.
        asked: The pass, or the rest of one.
        seconds: After how long the rest is left to another message.

    Returns:
        The devices that need a step, in pages, and what remains of the pass.
    """
    one_pass = services.distributor.begin_pass(correlation_id=asked.correlation_id)
    ends = time.monotonic() + seconds
    pages: list[PageMessage] = []
    token, looked_at = asked.token, 0
    while True:
        try:
            page = services.registry.rows(token=token)
        except TransportError as error:
            if looked_at == 0:
                raise
            _LOG.warning("distribution_pass_interrupted", extra={"code": error.code, "detail": str(error)})
            break  # what was found is not looked for again
        token, looked_at = page.next_token, looked_at + len(page.rows)
        pages += paged(one_pass.unsettled(page.rows), correlation_id=asked.correlation_id)
        if token is None or time.monotonic() >= ends:
            break
    _LOG.info(
        "distribution_pass",
        extra={
            "cause": asked.cause,
            "correlation_id": asked.correlation_id,
            "devices": looked_at,
            "unsettled": sum(len(page.devices) for page in pages),
            "goes_on": token is not None,
        },
    )
    return pages, None if token is None else replace(asked, token=token)


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
