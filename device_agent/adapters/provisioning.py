"""Which hub a device belongs to, asked of the Device Provisioning Service through its SDK client.

The answer is remembered in a file, for the service may be away when the hub is not. It is asked for again
when the hub refuses the device, and when the hub could not be reached several times: it may have moved. A
service that cannot be reached then leaves the remembered answer in use.

The service chooses the hub alone: an answer for another device than the one expected is refused.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from typing import TYPE_CHECKING, Any

from device_agent.adapters.lean_sdk import lean_imports
from device_agent.files import replace_file
from device_agent.sign_in import ClientCertificate, parse_host
from device_agent.twin_link import UNAUTHORIZED
from shared.errors import EdbError, FormatError, StorageError, TransportError
from shared.strict_json import loads

with lean_imports():
    from azure.iot.device import X509, ProvisioningDeviceClient
    from azure.iot.device import exceptions as sdk
    from azure.iot.device.provisioning.pipeline import exceptions as pipeline

if TYPE_CHECKING:
    from pathlib import Path

    from device_agent.sign_in import Provisioned

ATTEMPTS_BEFORE_ASKING_AGAIN = 10
"""Failed connections to a remembered hub before the service is asked whether it is still the right one."""

# Enabling responses lets the pipeline's own errors through untranslated.
_SDK_ERRORS = (
    sdk.ClientError,
    sdk.OperationCancelled,
    sdk.OperationTimeout,
    pipeline.PipelineException,
    pipeline.ConnectionFailedError,
    pipeline.ConnectionDroppedError,
    pipeline.ProtocolClientError,
    OSError,
    ValueError,
)
_STATUS_REFUSED = re.compile(r"status code (401|403|404)\b")
_MAX_BYTES = 4096
_ASSIGNED = "assigned"

_log = logging.getLogger("device_agent")


class Provisioner:
    """Knows the hub.

    Args:
        sign_in: Who asks whom.
        file: Where the answer is remembered; None remembers nothing.
        ca_pem: Roots to trust for the service; None trusts the system's.
    """

    def __init__(self, sign_in: Provisioned, *, file: Path | None, ca_pem: str | None) -> None:
        self._sign_in, self._file, self._ca_pem = sign_in, file, ca_pem
        self._failures = 0
        self._ask = False

    def hub(self) -> str:
        """Return the host name of the hub, remembered or asked for.

        Raises:
            TransportError: The service cannot be reached; :data:`~device_agent.twin_link.UNAUTHORIZED` if it
                refuses the device, or assigns another.
        """
        remembered = self._remembered()
        if remembered is not None and not self._ask:
            return remembered
        try:
            assigned = self._register()
        except TransportError as error:
            if remembered is None or error.code == UNAUTHORIZED:
                raise
            _log.warning("provisioning_failed", extra={"code": error.code, "reason": str(error)})
            assigned = remembered
        self._ask, self._failures = False, 0
        if assigned != remembered:
            _log.info("hub_assigned", extra={"device_id": self._sign_in.device_id, "hub": assigned})
            self._remember(assigned)
        return assigned

    def failed(self, error: EdbError) -> None:
        """Note that connecting to the hub failed."""
        self._failures += 1
        if error.code == UNAUTHORIZED or self._failures >= ATTEMPTS_BEFORE_ASKING_AGAIN:
            self._ask = True

    def _register(self) -> str:
        try:
            client = self._client()
            try:
                result = client.register()
            finally:
                _end(client)
        except (sdk.CredentialError, pipeline.UnauthorizedError) as error:
            raise _refused("refuses this device's credential") from error
        except _SDK_ERRORS as error:
            if _STATUS_REFUSED.search(str(error)) or _STATUS_REFUSED.search(str(error.__cause__)):
                raise _refused("does not know this device") from error
            raise TransportError(f"provisioning at {self._sign_in.service_host}: {_kind(error)}") from error
        return self._assigned(result)

    def _client(self) -> Any:  # noqa: ANN401 - the SDK carries no types
        ask = self._sign_in
        who = {
            "provisioning_host": ask.service_host,
            "registration_id": ask.registration_id,
            "id_scope": ask.id_scope,
            "server_verification_cert": self._ca_pem,
        }
        if isinstance(ask.credential, ClientCertificate):
            files = ask.credential
            x509 = X509(cert_file=str(files.certificate_file), key_file=str(files.key_file))
            return ProvisioningDeviceClient.create_from_x509_certificate(x509=x509, **who)
        key = ask.credential.key.reveal().decode()
        return ProvisioningDeviceClient.create_from_symmetric_key(symmetric_key=key, **who)

    def _assigned(self, result: Any) -> str:  # noqa: ANN401 - the SDK carries no types
        state = getattr(result, "registration_state", None)
        if getattr(result, "status", None) != _ASSIGNED or state is None:
            raise _refused("assigned no hub")
        if state.device_id != self._sign_in.device_id:
            raise _refused("assigned another device id than the settings say")
        try:
            return parse_host(state.assigned_hub, where="assigned hub")
        except FormatError as error:
            raise _refused("assigned something that is no host name") from error

    def _remembered(self) -> str | None:
        if self._file is None:
            return None
        try:
            with self._file.open("rb") as file:
                document = loads(file.read(_MAX_BYTES), where="assignment")
            if not isinstance(document, dict) or document.get("for") != self._key():
                return None  # made with other settings
            return parse_host(document.get("hub"), where="assignment/hub")
        except FileNotFoundError:
            return None
        except (OSError, FormatError) as error:
            _log.warning("state_damaged", extra={"file": str(self._file), "reason": str(error)})
            return None

    def _remember(self, hub: str) -> None:
        if self._file is None:
            return
        try:
            replace_file(self._file, json.dumps({"for": self._key(), "hub": hub}).encode())
        except StorageError as error:
            _log.error("state_not_saved", extra={"reason": str(error)})

    def _key(self) -> list[str]:
        ask = self._sign_in
        return [ask.service_host, ask.id_scope, ask.registration_id, ask.device_id]


def _end(client: Any) -> None:  # noqa: ANN401 - the SDK carries no types
    """End the client's threads: it does so itself only after a success, and offers no call for it."""
    with contextlib.suppress(pipeline.PipelineNotRunning):
        client._pipeline.shutdown(callback=lambda **_outcome: None)  # noqa: SLF001


def _kind(error: Exception) -> str:
    """Return what kind of error it is; its text may hold what the service said."""
    cause = error.__cause__ if error.__cause__ is not None else error
    return type(cause).__name__


def _refused(what: str) -> TransportError:
    return TransportError(
        f"the provisioning service {what}",
        code=UNAUTHORIZED,
        hint="is the device enrolled there, under this registration id and with this credential",
    )
