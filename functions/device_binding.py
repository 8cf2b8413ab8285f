"""RebindDevice: an operator says that a device's id belongs to the key that the device reports now.

The first release binds an id to a key (protocol section 5). Where a device comes back with another key and no
certificate for it, the one who decides is a person who has compared fingerprints with the device itself, as
with SSH's host keys. So the caller names the key; what the twin says is only ever compared with that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from functions.contract import Call, Contract, HttpFunctions, Tag
from functions.distribute import CONFLICT_RETRIES
from functions.distribution_messages import PageMessage
from functions.operations import record_of
from shared.errors import Conflict, EdbError, FormatError
from shared.twin.documents import OUTCOME_TAG, parse_public_key
from shared.twin.held import REBIND, read_held, read_rebinding
from shared.twin.settled import NOTE, read_note
from shared.types import Fingerprint
from shared.wire.fleet import RebindAnswer, RebindRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions.audit import AuditRecord
    from functions.services import Services
    from shared.twin.ports import Twin

REBIND_DEVICE = Contract(
    name="RebindDevice",
    method="POST",
    route="RebindDevice",
    tag=Tag.ADMINISTRATION,
    summary="Bind a device or module to the key that it reports now",
    description=(
        "The fingerprint comes from the device itself, by another way than its twin. What the policy asks "
        "for is asked for all the same. Said twice is said once."
    ),
    body=RebindRequest,
    answer=RebindAnswer,
    problems=(
        "device_not_found",
        "key_not_reported",
        "fingerprint_mismatch",
        "nothing_bound",
        "twin_conflict",
        "audit_unavailable",
    ),
    needs_master_key=True,
    asks_for_page=True,
)


def blueprint(services: Callable[[], Services]) -> HttpFunctions:
    """Return the function.

    Args:
        services: Puts the services together at the first call.
    """
    functions = HttpFunctions()

    @functions.serve(REBIND_DEVICE)
    def rebind_device(call: Call) -> RebindAnswer:
        return _rebind(services(), call, RebindRequest.parse(call.body))

    return functions


def _rebind(services: Services, call: Call, asked: RebindRequest) -> RebindAnswer:
    """Say it in the twin's tag, and have the device reconciled at once."""
    record = record_of(
        services,
        call,
        "rebind",
        device_id=asked.device_id,
    )
    try:
        bound_to = _say(services, asked, record)
    except EdbError as error:
        services.audit.write_if_possible(
            replace(record, outcome="failed", reason=error.code, detail=str(error))
        )
        raise
    page = PageMessage(devices=[asked.device_id], attempt=1, correlation_id=call.correlation_id)
    call.put_page(page.encode())
    return RebindAnswer(
        device_id=asked.device_id,
        fingerprint=asked.fingerprint.hex(),
        replaces=None if bound_to == asked.fingerprint else bound_to.hex(),
    )


def _say(services: Services, asked: RebindRequest, record: AuditRecord) -> Fingerprint:
    """Write the tag, unless it is there or the device is bound so already; return what it was bound to."""
    is_recorded = False
    for _ in range(CONFLICT_RETRIES + 1):
        twin = services.registry.read(asked.device_id)
        bound_to = _require_reported_and_bound(services, twin, asked)
        if not is_recorded:  # and without the record, nothing is said
            detail = f"to {asked.fingerprint.hex()}, bound is {bound_to.hex()}"
            services.audit.write(replace(record, detail=detail))
            is_recorded = True
        if bound_to == asked.fingerprint or _is_said(twin, asked.fingerprint):
            return bound_to
        try:
            services.registry.patch(twin.device_id, _patch(asked.fingerprint), etag=twin.etag)
        except Conflict:
            continue
        return bound_to
    raise Conflict(f"{asked.device_id}: the twin changes too fast", code="twin_conflict")


def _require_reported_and_bound(services: Services, twin: Twin, asked: RebindRequest) -> Fingerprint:
    """Return the fingerprint that the device is bound to, once it reports the key that was named.

    Raises:
        Conflict: ``key_not_reported`` ``fingerprint_mismatch`` ``nothing_bound``.
    """
    try:
        public_key = parse_public_key(twin.reported)
    except FormatError as error:
        raise Conflict(
            f"{twin.device_id}: reports no usable key: {error}", code="key_not_reported"
        ) from error
    if public_key is None:
        raise Conflict(f"{twin.device_id}: reports no key", code="key_not_reported")
    if public_key.fingerprint != asked.fingerprint:
        raise Conflict(
            f"{twin.device_id}: reports the key {public_key.fingerprint.hex()}, "
            f"named was {asked.fingerprint.hex()}",
            code="fingerprint_mismatch",
            hint="compare with what the device itself shows; who has its connection string can report a key",
        )
    release = read_held(twin, services.signer.public_keys()).release
    if release is None or (release.device_id, release.audience) != (twin.device_id, services.audience):
        raise Conflict(
            f"{twin.device_id}: is bound to no key; its first release binds it", code="nothing_bound"
        )
    return Fingerprint(release.fingerprint)


def _is_said(twin: Twin, fingerprint: Fingerprint) -> bool:
    return read_rebinding(twin.tags) == fingerprint.hex() and read_note(twin.tags) is None


def _patch(fingerprint: Fingerprint) -> dict[str, object]:
    """Return the patch; without its note the device is not settled, should the message get lost."""
    return {"tags": {OUTCOME_TAG: {REBIND: fingerprint.hex(), NOTE: None}}}
