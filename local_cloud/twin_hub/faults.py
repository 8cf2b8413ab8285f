"""What the hub answers when it does not do as asked: the service's own status and error codes."""

from __future__ import annotations

import enum

from shared.errors import EdbError


class Fault(enum.Enum):
    """A refusal as IoT Hub words it: HTTP status, six-digit error number and name."""

    ARGUMENT_INVALID = (400, 400004, "ArgumentInvalid")
    UNAUTHORIZED = (401, 401002, "IotHubUnauthorizedAccess")
    DEVICE_NOT_FOUND = (404, 404001, "DeviceNotFound")
    DEVICE_NOT_ONLINE = (404, 404103, "DeviceNotOnline")
    MODULE_NOT_FOUND = (404, 404010, "ModuleNotFound")
    DEVICE_EXISTS = (409, 409001, "DeviceAlreadyExists")
    MODULE_EXISTS = (409, 409301, "ModuleAlreadyExistsOnDevice")
    PRECONDITION_FAILED = (412, 412002, "PreconditionFailed")
    TWIN_TOO_LARGE = (413, 413002, "TwinSizeExceeded")
    THROTTLED = (429, 429001, "ThrottlingException")
    UNAVAILABLE = (503, 503001, "ServiceUnavailable")
    DEVICE_TIMEOUT = (504, 504101, "GatewayTimeout")

    @property
    def status(self) -> int:
        """The HTTP status; a twin response over MQTT carries the same number."""
        return self.value[0]

    @property
    def number(self) -> int:
        """The six-digit number in a device's error body."""
        return self.value[1]

    @property
    def name_on_wire(self) -> str:
        """The name in ``iothub-errorcode``."""
        return self.value[2]


class HubError(EdbError):
    """The hub refuses a request.

    Args:
        fault: What the client is told.
        message: What failed, expected and found, where.
    """

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message, code=fault.name.lower())
        self.fault = fault
