"""The twin link over ``azure-iot-device``, its synchronous client.

One client is one connection. The SDK reconnects at fixed intervals, never subscribes again, and waits for
good when the hub has lost the session; so its own reconnecting is off, a broken connection's client is thrown
away, and every call runs in a thread of its own that is waited for no longer than a deadline.

Ports are the SDK's: 8883 at the host, or at ``GatewayHostName`` if the connection string has one.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from device_agent.adapters.lean_sdk import NoUploads, is_proxy_named, lean_imports
from device_agent.sign_in import ClientCertificate
from device_agent.twin_link import REFUSED, UNAUTHORIZED, DesiredPatch, LinkChanged, Notify, Twin, parse_twin
from shared.errors import EdbError, FormatError, TransportError

with lean_imports():
    from azure.iot.device import X509, IoTHubDeviceClient, IoTHubModuleClient
    from azure.iot.device import exceptions as sdk
    from azure.iot.device.common.pipeline import pipeline_stages_http
    from azure.iot.device.iothub.pipeline import exceptions as pipeline
    from paho.mqtt import client as mqtt

pipeline_stages_http.HTTPTransport = NoUploads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from device_agent.sign_in import Provisioned, SharedKey
    from shared.types import DeviceId, Secret

CONNECT_SECONDS = 45.0
"""Longest wait for a connection: TCP, TLS, the hub's answer, and one subscription."""

PROVISION_SECONDS = 60.0
"""Longer still, if the provisioning service is to name the hub first: that takes two or three rounds."""

CALL_SECONDS = 15.0
"""Longest wait for the answer to one call."""

KEEP_ALIVE_SECONDS = 30
"""A hub that is gone without a word is noticed within twice this."""

_OPTIONS: Mapping[str, object] = {
    "keep_alive": KEEP_ALIVE_SECONDS,
    "auto_connect": False,
    "connection_retry": False,
    "ensure_desired_properties": False,  # the agent reads the whole twin itself
    "product_info": "enclave-device-agent",
}

# Setting a handler subscribes, and lets the pipeline's own errors through untranslated.
_SDK_ERRORS = (
    sdk.ClientError,
    sdk.OperationCancelled,
    sdk.OperationTimeout,
    pipeline.PipelineException,
    pipeline.ConnectionFailedError,
    pipeline.ConnectionDroppedError,
    pipeline.NoConnectionError,
    pipeline.UnauthorizedError,
    pipeline.ProtocolClientError,
    pipeline.TlsExchangeAuthError,
    pipeline.ProtocolProxyError,
    OSError,  # the Edge workload API, and a deadline's TimeoutError
    ValueError,
)

_STATUS = re.compile(r"status (\d{3})\b")
_BUSY = frozenset({408, 429})

_Result = TypeVar("_Result")
_log = logging.getLogger("device_agent")


class IotHubDevice:
    """A :class:`~device_agent.twin_link.TwinLink` to IoT Hub, or to the Edge hub beside a module.

    Args:
        device_id: Who connects.
        build: Makes an unconnected client; called for every connection.
        failed: Told of every connection that failed.
        connect_seconds: Longest wait for a connection.
        call_seconds: Longest wait for the answer to one call.
    """

    def __init__(
        self,
        *,
        device_id: DeviceId,
        build: Callable[[], Any],
        failed: Callable[[EdbError], None] = lambda _error: None,
        connect_seconds: float = CONNECT_SECONDS,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        if not is_proxy_named(os.environ):
            mqtt.socks = None  # as if the library for proxies were not there
        self._device_id = device_id
        self._build, self._failed = build, failed
        self._connect_seconds, self._call_seconds = connect_seconds, call_seconds
        self._client: Any = None
        self._lost = threading.Event()
        self._closing: list[threading.Thread] = []

    @classmethod
    def from_connection_string(
        cls, connection_string: Secret, *, device_id: DeviceId, ca_pem: str | None
    ) -> IotHubDevice:
        """Return a link that signs in with a device's or module's symmetric key.

        Args:
            connection_string: UTF-8 ``HostName=…;DeviceId=…[;ModuleId=…];SharedAccessKey=…``, as the hub
                gives it, with ``GatewayHostName=…`` if the device connects to another address.
            device_id: The id that stands in it, or ``device/module``.
            ca_pem: Roots to trust for the hub; None trusts the system's.
        """
        kind = IoTHubModuleClient if "/" in device_id else IoTHubDeviceClient

        def build() -> object:
            text = connection_string.reveal().decode()
            return kind.create_from_connection_string(text, server_verification_cert=ca_pem, **_OPTIONS)

        return cls(device_id=device_id, build=build)

    @classmethod
    def from_client_certificate(
        cls, credential: ClientCertificate, *, host: str, device_id: DeviceId, ca_pem: str | None
    ) -> IotHubDevice:
        """Return a link that signs in with a client certificate, read anew for every connection."""
        return cls(
            device_id=device_id,
            build=lambda: certified_client(credential, host=host, device_id=device_id, ca_pem=ca_pem),
        )

    @classmethod
    def from_provisioning(
        cls, sign_in: Provisioned, *, assignment_file: Path | None, ca_pem: str | None
    ) -> IotHubDevice:
        """Return a link to the hub that the Device Provisioning Service names."""
        # The provisioning client is loaded for those that need it.
        from device_agent.adapters.provisioning import Provisioner  # noqa: PLC0415

        provisioner = Provisioner(sign_in, file=assignment_file, ca_pem=ca_pem)
        return cls(
            device_id=sign_in.device_id,
            build=lambda: provisioned_client(
                sign_in.credential, host=provisioner.hub(), device_id=sign_in.device_id, ca_pem=ca_pem
            ),
            failed=provisioner.failed,
            connect_seconds=CONNECT_SECONDS + PROVISION_SECONDS,
        )

    @classmethod
    def from_edge_environment(cls, *, device_id: DeviceId) -> IotHubDevice:
        """Return a link for a module of IoT Edge, whose workload API signs and names the roots to trust."""
        return cls(
            device_id=device_id,
            build=lambda: IoTHubModuleClient.create_from_edge_environment(**_OPTIONS),
        )

    @property
    def device_id(self) -> DeviceId:
        """See :class:`~device_agent.twin_link.TwinLink`."""
        return self._device_id

    @property
    def connected(self) -> bool:
        """See :class:`~device_agent.twin_link.TwinLink`."""
        return self._client is not None and not self._lost.is_set() and bool(self._client.connected)

    def connect(self, notify: Notify) -> None:
        """See :class:`~device_agent.twin_link.TwinLink`."""
        self.disconnect()
        lost = threading.Event()

        def changed() -> None:
            # Any change after connecting is a break, even if the SDK, renewing its token, is back already.
            lost.set()
            notify(LinkChanged())

        def pushed(document: object) -> None:
            if not lost.is_set():
                notify(DesiredPatch(document=document))

        def open_session() -> None:
            client = self._client = self._build()
            client.connect()
            client.on_connection_state_change = changed
            client.on_twin_desired_properties_patch_received = pushed

        self._lost = lost
        try:
            self._call(open_session, seconds=self._connect_seconds, what="connecting")
        except EdbError as error:
            self.disconnect()
            self._failed(error)
            raise

    def get_twin(self) -> Twin:
        """See :class:`~device_agent.twin_link.TwinLink`."""
        client = self._standing()
        return parse_twin(self._call(client.get_twin, seconds=self._call_seconds, what="reading the twin"))

    def patch_reported(self, patch: Mapping[str, object]) -> None:
        """See :class:`~device_agent.twin_link.TwinLink`."""
        client = self._standing()
        self._call(
            lambda: client.patch_twin_reported_properties(dict(patch)),
            seconds=self._call_seconds,
            what="patching the twin",
        )

    def _standing(self) -> Any:  # noqa: ANN401 - the SDK carries no types
        if not self.connected:
            raise TransportError("not connected to the hub")
        return self._client

    def disconnect(self) -> None:
        """See :class:`~device_agent.twin_link.TwinLink`."""
        client, self._client = self._client, None
        self._lost.set()
        self._closing = [thread for thread in self._closing if thread.is_alive()]
        if client is not None:
            thread = threading.Thread(target=_shut_down, args=(client,), name="hub-shutdown", daemon=True)
            thread.start()
            self._closing.append(thread)

    def close(self, *, seconds: float) -> bool:
        """Disconnect and wait for the SDK to end.

        Returns:
            Whether it did; if not, its threads keep the process from ending by itself.
        """
        self.disconnect()
        for thread in self._closing:
            thread.join(seconds)
        return not any(thread.is_alive() for thread in self._closing)

    def _call(self, call: Callable[[], _Result], *, seconds: float, what: str) -> _Result:
        try:
            return _within(seconds, call)
        except _SDK_ERRORS as error:
            raise _translated(error, what=what, seconds=seconds) from error


def certified_client(
    credential: ClientCertificate, *, host: str, device_id: DeviceId, ca_pem: str | None
) -> object:
    """Return an unconnected client that signs in with a certificate."""
    device, _, module = device_id.partition("/")
    options: dict[str, object] = {**_OPTIONS, "server_verification_cert": ca_pem}
    files = X509(cert_file=str(credential.certificate_file), key_file=str(credential.key_file))
    if module:
        return IoTHubModuleClient.create_from_x509_certificate(files, host, device, module, **options)
    return IoTHubDeviceClient.create_from_x509_certificate(files, host, device, **options)


def provisioned_client(
    credential: ClientCertificate | SharedKey, *, host: str, device_id: DeviceId, ca_pem: str | None
) -> object:
    """Return an unconnected client that signs in at its hub as it did at the provisioning service."""
    if isinstance(credential, ClientCertificate):
        return certified_client(credential, host=host, device_id=device_id, ca_pem=ca_pem)
    return IoTHubDeviceClient.create_from_symmetric_key(
        credential.key.reveal().decode(), host, device_id, server_verification_cert=ca_pem, **_OPTIONS
    )


def _within(seconds: float, call: Callable[[], _Result]) -> _Result:
    """Run ``call`` in a thread that is abandoned after ``seconds``.

    Raises:
        TimeoutError: It did not end in time.
    """
    outcome: Future[_Result] = Future()

    def work() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            outcome.set_exception(error)

    threading.Thread(target=work, name="hub-call", daemon=True).start()
    return outcome.result(timeout=seconds)


def _shut_down(client: Any) -> None:  # noqa: ANN401 - the SDK carries no types
    try:
        client.shutdown()
    except _SDK_ERRORS as error:
        _log.debug("shutdown_failed", extra={"reason": type(error).__name__})


def _translated(error: BaseException, *, what: str, seconds: float) -> EdbError:
    """Return the SDK's error as one of ours; of its text only an HTTP status is taken over."""
    chain = [error, *([error.__cause__] if error.__cause__ is not None else [])]
    if isinstance(error, TimeoutError):
        return TransportError(f"{what}: the hub did not answer in {seconds:g} seconds")
    if any(isinstance(link, sdk.CredentialError | pipeline.UnauthorizedError) for link in chain):
        return TransportError(
            f"{what}: the hub refuses this device",
            code=UNAUTHORIZED,
            hint="is the device enabled, and its key the one in the connection string",
        )
    if any(isinstance(link, pipeline.TlsExchangeAuthError) for link in chain):
        return TransportError(
            f"{what}: the hub's certificate is not trusted", code="hub_untrusted", hint="set ca_file"
        )
    status = next((int(found[1]) for link in chain if (found := _STATUS.search(str(link)))), None)
    if status is not None and 400 <= status < 500 and status not in _BUSY:  # noqa: PLR2004 - HTTP's classes
        return FormatError(f"{what}: the hub answered {status}", code=REFUSED)
    detail = "" if status is None else f", status {status}"
    return TransportError(f"{what}: {type(chain[-1]).__name__}{detail}")
