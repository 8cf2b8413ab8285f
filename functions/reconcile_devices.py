"""ReconcileDevices: an operator has devices looked at now, and not with the next pass.

It decides and changes nothing itself: the devices go onto the queue of pages, as those that a pass finds do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from functions.contract import Call, Contract, HttpFunctions, Tag
from functions.distribution_messages import PageMessage
from functions.operations import record_of
from shared.wire.fleet import ReconcileAnswer, ReconcileRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions.services import Services

RECONCILE_DEVICES = Contract(
    name="ReconcileDevices",
    method="POST",
    route="ReconcileDevices",
    tag=Tag.PROVISIONING,
    summary="Have some devices or modules reconciled at once",
    description="One that the hub does not know is passed over. What is decided, their tags tell soon after.",
    body=ReconcileRequest,
    answer=ReconcileAnswer,
    problems=("audit_unavailable",),
    asks_for_page=True,
)


def blueprint(services: Callable[[], Services]) -> HttpFunctions:
    """Return the function.

    Args:
        services: Puts the services together at the first call.
    """
    functions = HttpFunctions()

    @functions.serve(RECONCILE_DEVICES)
    def reconcile_devices(call: Call) -> ReconcileAnswer:
        return _reconcile(services(), call, ReconcileRequest.parse(call.body))

    return functions


def _reconcile(services: Services, call: Call, asked: ReconcileRequest) -> ReconcileAnswer:
    devices = list(dict.fromkeys(asked.device_ids))
    services.audit.write(
        record_of(
            services,
            call,
            "reconcile",
            device_id=devices[0] if len(devices) == 1 else None,
            detail=f"{len(devices)} devices",
        )
    )
    page = PageMessage(devices=devices, attempt=1, correlation_id=call.correlation_id)
    call.put_page(page.encode())
    return ReconcileAnswer(devices=len(devices))
