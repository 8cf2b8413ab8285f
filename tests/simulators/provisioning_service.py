"""The Device Provisioning Service as a device sees it: MQTT over TLS on port 8883 of a loopback address.

It takes a shared access signature or a client certificate whose common name is the registration id, answers a
registration with "assigning", and the question that follows with what the test decided.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from cryptography import x509
from cryptography.x509.oid import NameOID

from local_cloud.certificates import Authority, issue_server
from local_cloud.twin_hub import mqtt_codec as codec
from local_cloud.twin_hub.sas import parse_sas, verify_sas
from shared.errors import EdbError

if TYPE_CHECKING:
    from pathlib import Path

ID_SCOPE = "0ne00TEST"
_RESPONSES = "$dps/registrations/res/#"
_REGISTER = "$dps/registrations/PUT/iotdps-register/"
_STATUS = "$dps/registrations/GET/iotdps-get-operationstatus/"


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a registration id is assigned."""

    device_id: str
    hub: str


class ProvisioningService:
    """Runs in a thread of its own.

    Args:
        folder: For its certificate.
        root: Signs it.
        device_ca: Signs client certificates.

    Attributes:
        address: The loopback address that it listens on.
        keys: Shared access keys, base64, by registration id.
        assignments: By registration id; one that is not there is refused with 401.
        registrations: Ids that registered, in order.
    """

    def __init__(self, folder: Path, *, root: Authority, device_ca: Authority) -> None:
        self.keys: dict[str, str] = {}
        self.assignments: dict[str, Assignment] = {}
        self.registrations: list[str] = []
        self._folder, self._root, self._device_ca = folder, root, device_ca
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.address = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)

    async def _listen(self) -> str:
        for _ in range(50):
            address = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}.3"
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            chain, key = issue_server(self._root, [address])
            for name, data in (("dps.pem", chain), ("dps.key", key)):
                (self._folder / name).write_bytes(data)
            tls.load_cert_chain(self._folder / "dps.pem", self._folder / "dps.key")
            tls.verify_mode = ssl.CERT_OPTIONAL
            tls.load_verify_locations(cadata=self._device_ca.certificate_pem.decode())
            try:
                self._server = await self._loop.create_server(
                    lambda: _Connection(self), address, 8883, ssl=tls
                )
            except OSError:
                continue
            return address
        raise AssertionError("no loopback address would do")

    def admits(self, connect: codec.Connect, certificate: bytes | None) -> bool:
        """Say whether a client has proved its registration id."""
        scope, _, rest = (connect.user_name or "").partition("/registrations/")
        if scope != ID_SCOPE or rest.partition("/")[0] != connect.client_id:
            return False
        if certificate is not None:
            subject = x509.load_der_x509_certificate(certificate).subject
            names = [part.value for part in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
            return names == [connect.client_id]
        try:
            verify_sas(
                parse_sas((connect.password or b"").decode()),
                keys=[self.keys[connect.client_id]],
                resources={f"{ID_SCOPE.lower()}/registrations/{connect.client_id}"},
                now=time.time(),
            )
        except (EdbError, KeyError):
            return False
        return True

    def answer(self, registration_id: str, topic: str) -> tuple[int, dict[str, object]]:
        """Return status and body for what a client published."""
        assignment = self.assignments.get(registration_id)
        if assignment is None:
            return 401, {"errorCode": 401002, "message": "not enrolled"}
        if topic == _REGISTER:
            self.registrations.append(registration_id)
            return 202, {"operationId": "4.test", "status": "assigning"}
        state = {
            "registrationId": registration_id,
            "deviceId": assignment.device_id,
            "assignedHub": assignment.hub,
            "status": "assigned",
            "substatus": "initialAssignment",  # the SDK breaks without it
        }
        return 200, {"operationId": "4.test", "status": "assigned", "registrationState": state}

    def close(self) -> None:
        async def end() -> None:
            self._server.close()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Connection(asyncio.Protocol):
    def __init__(self, service: ProvisioningService) -> None:
        self._service = service
        self._buffer = codec.PacketBuffer()
        self._client = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for first, body in self._buffer.feed(data, limit=codec.MAX_PACKET):
            self._take(codec.parse(first, body))

    def _take(self, packet: codec.Packet) -> None:
        match packet:
            case codec.Connect():
                tls = self._transport.get_extra_info("ssl_object")
                good = self._service.admits(packet, tls.getpeercert(binary_form=True))
                code = codec.ReturnCode.ACCEPTED if good else codec.ReturnCode.NOT_AUTHORIZED
                self._transport.write(codec.encode_connack(code, session_present=False))
                self._client = packet.client_id if good else ""
                if not good:
                    self._transport.close()
            case codec.Subscribe(filters=[(topic, _)]) if self._client and topic == _RESPONSES:
                self._transport.write(codec.encode_suback(packet.packet_id, [1]))
            case codec.Publish() if self._client:
                self._published(packet)
            case codec.Ping():
                self._transport.write(codec.encode_pingresp())
            case codec.PublishAck():
                pass
            case _:
                self._transport.close()

    def _published(self, packet: codec.Publish) -> None:
        topic, _, query = packet.topic.partition("?")
        assert topic in {_REGISTER, _STATUS}
        status, body = self._service.answer(self._client, topic)
        [request_id] = parse_qs(query)["$rid"]
        answer = f"$dps/registrations/res/{status}/?$rid={request_id}&retry-after=1"
        self._transport.write(codec.encode_publish(answer, json.dumps(body).encode()))
        if packet.qos:
            self._transport.write(codec.encode_puback(packet.packet_id))
