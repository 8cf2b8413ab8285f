"""Twin-change events: which devices they say have to be looked at.

Of interest is what a device reports of its key, certificate and status, and tags that a policy may speak of.
What this app writes itself causes events, too: the outcome tag and desired are left out, or every write would
be followed by another look.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from shared import strict_json
from shared.errors import FormatError
from shared.twin.documents import CERTIFICATES, OUTCOME_TAG, PUBLIC_KEY, STATUS
from shared.types import DeviceId, parse_device_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    import azure.functions as func

_REPORTED = frozenset({PUBLIC_KEY, CERTIFICATES, STATUS})
_OPERATIONS = frozenset({"updateTwin", "replaceTwin"})
_LOG = logging.getLogger(__name__)


def changed_devices(events: Sequence[func.EventHubEvent]) -> list[DeviceId]:
    """Return the devices to look at, each once, in the order of their first event.

    Args:
        events: One batch; an event that cannot be read is logged and left out, for the timer will come.
    """
    found: dict[DeviceId, None] = {}
    for number, event in enumerate(events):
        try:
            device_id = _changed_device(event, _properties(events, number))
        except FormatError as error:
            _LOG.warning("twin_event_unreadable", extra={"detail": str(error)})
            continue
        if device_id is not None:
            found[device_id] = None
    return list(found)


def _changed_device(event: func.EventHubEvent, properties: Mapping[str, object]) -> DeviceId | None:
    if properties.get("opType") not in _OPERATIONS:
        return None
    body = strict_json.loads(event.get_body(), where="twin event")
    if not isinstance(body, Mapping) or not _is_of_interest(body):
        return None
    device, module = properties.get("deviceId"), properties.get("moduleId")
    return parse_device_id(f"{device}/{module}" if module else device, where="twin event: deviceId")


def _is_of_interest(body: Mapping[str, object]) -> bool:
    tags, properties = body.get("tags"), body.get("properties")
    if isinstance(tags, Mapping) and tags.keys() - {OUTCOME_TAG}:
        return True
    reported = properties.get("reported") if isinstance(properties, Mapping) else None
    return isinstance(reported, Mapping) and not _REPORTED.isdisjoint(reported)


def _properties(events: Sequence[func.EventHubEvent], number: int) -> Mapping[str, object]:
    """Return an event's application properties: the batch's metadata holds them for all, by position.

    Raises:
        FormatError: They are not there.
    """
    metadata = events[number].metadata or {}
    listed = metadata.get("PropertiesArray")
    if isinstance(listed, str | bytes):
        listed = json.loads(listed)
    properties = listed[number] if isinstance(listed, list) and number < len(listed) else None
    if not isinstance(properties, Mapping):
        raise FormatError("twin event: expected its application properties in the batch's metadata")
    return properties
