"""A device's connection: MQTT 3.1.1 in, hub calls out.

One :class:`DeviceProtocol` serves one client. It is closed alone, whatever the client does: a malformed
packet, a topic that is not its own, too large a packet, silence, or not reading what it asked for.

The order of answers matters. A twin request is answered after its effect is committed and before its PUBACK:
if the hub dies in between, the client's MQTT library sends the request again, where otherwise its caller
would wait for ever. The client never subscribes again after a reconnect, so subscriptions are kept with
the session.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from local_cloud.twin_hub import mqtt_codec as codec
from local_cloud.twin_hub.authentication import ConnectRefusedError
from local_cloud.twin_hub.device_topics import (
    GetTwin,
    MethodAnswer,
    PatchReported,
    Telemetry,
    allowed_filters,
    parse_topic,
)
from local_cloud.twin_hub.faults import Fault, HubError
from local_cloud.twin_hub.hub import TWIN_RESPONSES, MethodResult
from local_cloud.twin_hub.throttles import Operation
from shared import strict_json
from shared.errors import FormatError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from local_cloud.twin_hub.authentication import Admitted, DeviceAuthenticator
    from local_cloud.twin_hub.hub import Hub
    from shared.types import DeviceId

CONNECT_SECONDS = 30
"""How long a client may take to introduce itself."""

MAX_KEEP_ALIVE = 1178
"""Seconds of silence that a client may ask for, before the factor of 1.5 (IoT Hub: 29.45 minutes)."""

KEEP_ALIVE_FACTOR = 1.5
"""How much of its keep-alive time a client may be silent (MQTT 3.1.2.10)."""

MAX_UNSENT = 1 << 20
"""Bytes that wait for a client to read; one that lets more pile up is closed."""

log = logging.getLogger("twin_hub.mqtt")


class DeviceProtocol(asyncio.Protocol):
    """The server's end of one client's connection.

    Args:
        hub: Whom the client talks to.
        authenticator: Says who the client is.
    """

    def __init__(self, hub: Hub, authenticator: DeviceAuthenticator) -> None:
        self._hub = hub
        self._authenticator = authenticator
        self._buffer = codec.PacketBuffer()
        self._key: DeviceId | None = None
        self._filters: set[str] = set()
        self._keeps_session = False
        self._reason = "connection lost"
        self._timers: list[asyncio.TimerHandle] = []
        self._watcher: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    # Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the time that the client has to introduce itself."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a device's connection is a stream")
        self._transport = transport
        self._heard_at = self._loop.time()
        transport.set_write_buffer_limits(high=MAX_UNSENT)
        self._after(CONNECT_SECONDS, self._expect_connected)

    def data_received(self, data: bytes) -> None:
        """Act on every whole packet; whatever is wrong ends this connection and no other."""
        self._heard_at = self._loop.time()
        try:
            limit = codec.MAX_FIRST_PACKET if self._key is None else codec.MAX_PACKET
            for first, body in self._buffer.feed(data, limit=limit):
                if self._transport.is_closing():
                    return
                self._act(codec.parse(first, body))
        except FormatError as error:
            self.close(f"protocol: {error}")
        except StorageError as error:
            self.close(f"storage: {error}")

    def pause_writing(self) -> None:
        """End the connection: the client does not read."""
        self._reason = "does not read"
        self._transport.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Forget the connection."""
        for timer in (*self._timers, self._watcher):
            if timer is not None:
                timer.cancel()
        if self._key is not None:
            self._hub.detach(self._key, self, reason=self._reason)

    # What the hub uses

    @property
    def filters(self) -> AbstractSet[str]:
        """Topic filters that the client has subscribed to."""
        return self._filters

    def publish(self, topic: str, payload: bytes) -> None:
        """Send a message of QoS 0."""
        self._send(codec.encode_publish(topic, payload))

    def close(self, reason: str) -> None:
        """End the connection after what is already written."""
        if not self._transport.is_closing():
            self._reason = reason
            log.info("client_closed", extra={"device_id": self._key, "reason": reason})
            self._transport.close()

    # Packets

    def _act(self, packet: codec.Packet) -> None:
        if self._key is None:
            if not isinstance(packet, codec.Connect):
                raise FormatError("expected CONNECT first")
            self._connect(packet)
            return
        match packet:
            case codec.Publish():
                self._publish(self._key, packet)
            case codec.Subscribe():
                self._subscribe(self._key, packet)
            case codec.Unsubscribe():
                self._filters.difference_update(packet.filters)
                self._save_session(self._key)
                self._send(codec.encode_unsuback(packet.packet_id))
            case codec.Ping():
                self._send(codec.encode_pingresp())
            case codec.PublishAck():  # nothing of QoS 1 is sent to a client
                pass
            case codec.Disconnect():
                self.close("disconnected")
            case codec.Connect():
                raise FormatError("CONNECT twice")

    def _connect(self, packet: codec.Connect) -> None:
        try:
            self._hub.throttles.take(Operation.CONNECT)
            certificate = _client_certificate(self._transport)
            admitted = self._authenticator.admit(packet, certificate=certificate, now=time.time())
        except HubError as error:  # a passing fault: the client shall come again
            self._refuse(codec.ReturnCode.UNAVAILABLE, str(error))
        except ConnectRefusedError as error:
            self._refuse(error.return_code, str(error))
        else:
            self._admit(packet, admitted)

    def _admit(self, packet: codec.Connect, admitted: Admitted) -> None:
        key = admitted.key
        kept = None if packet.clean_session else self._hub.store.session(key)
        try:
            if packet.clean_session:
                self._hub.store.forget_session(key)
        except StorageError as error:
            self._refuse(codec.ReturnCode.UNAVAILABLE, str(error))
            return
        self._key, self._filters = key, set(kept or ())
        self._keeps_session = not packet.clean_session
        self._send(codec.encode_connack(codec.ReturnCode.ACCEPTED, session_present=kept is not None))
        self._hub.attach(key, self)
        if admitted.expires_at is not None:
            self._after(admitted.expires_at - time.time(), lambda: self.close("token expired"))
        self._watch(min(packet.keep_alive or MAX_KEEP_ALIVE, MAX_KEEP_ALIVE) * KEEP_ALIVE_FACTOR)

    def _refuse(self, code: codec.ReturnCode, reason: str) -> None:
        log.warning("connect_refused", extra={"return_code": int(code), "reason": reason})
        self._send(codec.encode_connack(code, session_present=False))
        self._transport.close()

    def _subscribe(self, key: DeviceId, packet: codec.Subscribe) -> None:
        allowed = allowed_filters(key)
        granted = [qos if topic in allowed else 0x80 for topic, qos in packet.filters]
        self._filters.update(topic for topic, _ in packet.filters if topic in allowed)
        self._save_session(key)
        self._send(codec.encode_suback(packet.packet_id, granted))

    def _save_session(self, key: DeviceId) -> None:
        self._hub.subscribed(key, self, durable=self._keeps_session)

    def _publish(self, key: DeviceId, packet: codec.Publish) -> None:
        request = parse_topic(packet.topic, key=key)
        answer = b""
        match request:
            case GetTwin():
                answer = self._answer(request.request_id, lambda: self._get_twin(key))
            case PatchReported():
                answer = self._answer(request.request_id, lambda: self._report(key, packet.payload))
            case MethodAnswer():
                payload = strict_json.loads(packet.payload or b"null", where="method response")
                result = MethodResult(status=request.status, payload=payload)
                self._hub.method_answered(key, request.request_id, result)
            case Telemetry():
                self._hub.take_telemetry(key, len(packet.payload))
        self._send(answer + (codec.encode_puback(packet.packet_id) if packet.qos else b""))

    def _get_twin(self, key: DeviceId) -> _Answer:
        return _Answer(status=200, body=_json(self._hub.twin_of_device(key)))

    def _report(self, key: DeviceId, payload: bytes) -> _Answer:
        patch = strict_json.loads(payload, where="reported patch")
        return _Answer(status=204, version=f"&$version={self._hub.report(key, patch)}")

    def _answer(self, request_id: str, act: Callable[[], _Answer]) -> bytes:
        """Do what a twin request asks for and return the answer to send, if the client listens."""
        try:
            answer = act()
        except HubError as error:
            answer = _refusal(error.fault, str(error))
        except FormatError as error:
            answer = _refusal(Fault.ARGUMENT_INVALID, str(error))
        except StorageError:
            answer = _refusal(Fault.UNAVAILABLE, "the hub cannot write")
        if TWIN_RESPONSES not in self._filters:
            log.warning("answer_dropped", extra={"device_id": self._key, "reason": "not subscribed"})
            return b""
        query = f"$rid={quote(request_id, safe='')}{answer.version}"
        return codec.encode_publish(f"$iothub/twin/res/{answer.status}/?{query}", answer.body)

    # Plumbing

    def _send(self, data: bytes) -> None:
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def _expect_connected(self) -> None:
        if self._key is None:
            self.close("no CONNECT")

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        self._timers.append(self._loop.call_later(max(0.0, seconds), act))

    def _watch(self, silence: float) -> None:
        """Close the connection after ``silence`` seconds without a byte from the client."""
        left = self._heard_at + silence - self._loop.time()
        if left <= 0:
            self.close("silent for longer than its keep-alive time")
            return
        self._watcher = self._loop.call_later(left, self._watch, silence)


def _client_certificate(transport: asyncio.Transport) -> bytes | None:
    """Return the DER of the client's certificate, if it has one that TLS trusts."""
    tls = transport.get_extra_info("ssl_object")
    certificate: bytes | None = tls.getpeercert(binary_form=True) if tls is not None else None
    return certificate


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What a twin request is answered; ``version`` as it stands in the topic."""

    status: int
    version: str = ""
    body: bytes = b""


def _refusal(fault: Fault, message: str) -> _Answer:
    return _Answer(status=fault.status, body=_json({"errorCode": fault.number, "message": message}))
