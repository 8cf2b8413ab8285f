"""A twin in a file, as the hub's REST API and ``az iot hub device-twin show`` write it."""

from __future__ import annotations

from collections.abc import Mapping

from shared import strict_json
from shared.errors import FormatError
from shared.twin.ports import Twin
from shared.types import parse_device_id


def parse_twin(data: bytes, *, where: str) -> Twin:
    """Read a device's or module's twin.

    Args:
        data: A JSON object with ``deviceId``, perhaps ``moduleId``, ``status``, ``tags`` and
            ``properties.reported``. What is missing is empty; a device is enabled unless it says otherwise,
            for a module's twin says nothing.
        where: What is being read, for the message.

    Raises:
        FormatError: It is none.
    """
    document = _object(strict_json.loads(data, where=where), where)
    device, module = document.get("deviceId"), document.get("moduleId")
    name = f"{device}/{module}" if module and isinstance(device, str) else device
    properties = _object(document.get("properties"), f"{where}: at /properties")
    status = document.get("status") or "enabled"
    if not isinstance(status, str):
        raise FormatError(f"{where}: at /status: expected enabled or disabled")
    return Twin(
        device_id=parse_device_id(name, where=f"{where}: at /deviceId"),
        etag=str(document.get("etag", "")),
        status=status,
        tags=_object(document.get("tags"), f"{where}: at /tags"),
        desired=_object(properties.get("desired"), f"{where}: at /properties/desired"),
        reported=_object(properties.get("reported"), f"{where}: at /properties/reported"),
    )


def _object(value: object, where: str) -> Mapping[str, object]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise FormatError(f"{where}: expected an object, found {type(value).__name__}")
    return value
