"""MQTT 3.1.1 packets as a server reads and writes them, as far as IoT Hub speaks the protocol.

No I/O: bytes in, packets out. :class:`PacketBuffer` cuts a stream into packets, never holding more than
one packet's limit beyond what the transport hands over at once; :func:`parse` reads one packet. Whatever
is wrong is a :class:`~shared.errors.FormatError`, and the connection that sent it is closed. QoS 2 does
not exist here, as it does not at the service. Clauses in brackets are those of the OASIS standard.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Item = TypeVar("Item")

MAX_PACKET = 300 * 1024
"""Bytes of a packet's body: IoT Hub's largest message is 256 KB."""

MAX_FIRST_PACKET = 16 * 1024
"""Bytes of the CONNECT packet's body: nobody is known yet."""

MAX_FILTERS = 32
"""Topic filters in one SUBSCRIBE or UNSUBSCRIBE packet."""

MAX_QOS = 1

_LENGTH_DIGITS = 4


class Kind(enum.IntEnum):
    """Control packet types that a client sends (2.2.1)."""

    CONNECT = 1
    PUBLISH = 3
    PUBACK = 4
    SUBSCRIBE = 8
    UNSUBSCRIBE = 10
    PINGREQ = 12
    DISCONNECT = 14


class ReturnCode(enum.IntEnum):
    """What CONNACK says (3.2.2.3).

    ``azure-iot-device`` tries again after 3 and gives up for good after 5.
    """

    ACCEPTED = 0
    UNAVAILABLE = 3
    BAD_CREDENTIALS = 4
    NOT_AUTHORIZED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """A client introduces itself (3.1)."""

    client_id: str
    user_name: str | None
    password: bytes | None = field(repr=False)
    clean_session: bool
    keep_alive: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """An application message (3.3)."""

    topic: str
    payload: bytes = field(repr=False)
    qos: int
    packet_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishAck:
    """The client has a QoS 1 message (3.4)."""

    packet_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribe:
    """The client asks for topics, each with the QoS that it wants (3.8)."""

    packet_id: int
    filters: Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsubscribe:
    """The client has enough of topics (3.10)."""

    packet_id: int
    filters: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """The client is alive (3.12)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect:
    """The client goes (3.14)."""


Packet: TypeAlias = Connect | Publish | PublishAck | Subscribe | Unsubscribe | Ping | Disconnect


class PacketBuffer:
    """Cuts a stream of bytes into packets."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes, *, limit: int) -> Iterator[tuple[int, bytes]]:
        """Yield each whole packet's first byte and body; an unfinished one waits for more.

        Args:
            data: What arrived.
            limit: Bytes that a body may have.

        Raises:
            FormatError: A length that is too large, or no length.
        """
        self._pending += data
        while (header := self._header()) is not None:
            start, length = header
            if length > limit:
                raise FormatError(f"MQTT packet: expected at most {limit} bytes, found {length}")
            end = start + length
            if len(self._pending) < end:
                return
            first, body = self._pending[0], bytes(self._pending[start:end])
            del self._pending[:end]
            yield first, body

    def _header(self) -> tuple[int, int] | None:
        """Return where the body starts and its length, if they have arrived (2.2.3)."""
        length = 0
        for digit, byte in enumerate(self._pending[1 : 1 + _LENGTH_DIGITS]):
            length |= (byte & 0x7F) << (7 * digit)
            if byte < 0x80:  # noqa: PLR2004 - the continuation bit
                return digit + 2, length
        if len(self._pending) > _LENGTH_DIGITS:
            raise FormatError("MQTT packet: remaining length of more than four bytes")
        return None


def parse(first: int, body: bytes) -> Packet:
    """Read one packet.

    Args:
        first: The fixed header's first byte: type and flags.
        body: What follows the remaining length.

    Raises:
        FormatError: Not a packet that a client of IoT Hub may send.
    """
    try:
        kind = Kind(first >> 4)
    except ValueError:
        raise FormatError(f"MQTT packet: type {first >> 4} is not a client's") from None
    reader = _Reader(body)
    if kind is Kind.PUBLISH:
        return _publish(first, reader)
    if first & 0x0F != _FLAGS.get(kind, 0):
        raise FormatError(f"MQTT {kind.name}: reserved flags {first & 0x0F:#x}")
    if kind is Kind.CONNECT:
        packet: Packet = _connect(reader)
    elif kind is Kind.PUBACK:
        packet = PublishAck(packet_id=reader.packet_id())
    elif kind is Kind.SUBSCRIBE:
        packet = _subscribe(reader)
    elif kind is Kind.UNSUBSCRIBE:
        packet = Unsubscribe(packet_id=reader.packet_id(), filters=reader.all(reader.text))
    else:
        packet = Ping() if kind is Kind.PINGREQ else Disconnect()
    reader.finish()
    return packet


_FLAGS = {Kind.SUBSCRIBE: 0b0010, Kind.UNSUBSCRIBE: 0b0010}
_CONNECT_USER, _CONNECT_PASSWORD, _CONNECT_WILL, _CONNECT_CLEAN = 0x80, 0x40, 0x04, 0x02
_CONNECT_RESERVED = 0x01
_LEVEL = 4


def _connect(reader: _Reader) -> Connect:
    name, level, flags = reader.text(), reader.byte(), reader.byte()
    if name != "MQTT" or level != _LEVEL:
        raise FormatError(f"MQTT CONNECT: expected protocol MQTT level 4, found {name[:16]!r} level {level}")
    if flags & _CONNECT_RESERVED:
        raise FormatError("MQTT CONNECT: the reserved flag is set")
    keep_alive, client_id = reader.word(), reader.text()
    if flags & _CONNECT_WILL:  # read over: the hub's will messages are telemetry
        reader.text()
        reader.data()
    user_name = reader.text() if flags & _CONNECT_USER else None
    password = reader.data() if flags & _CONNECT_PASSWORD else None
    return Connect(
        client_id=client_id,
        user_name=user_name,
        password=password,
        clean_session=bool(flags & _CONNECT_CLEAN),
        keep_alive=keep_alive,
    )


def _publish(first: int, reader: _Reader) -> Publish:
    qos = first >> 1 & 0b11
    if qos > MAX_QOS:
        raise FormatError(f"MQTT PUBLISH: expected QoS 0 or 1, found {qos}")
    topic = reader.text()
    if not topic or "#" in topic or "+" in topic:
        raise FormatError("MQTT PUBLISH: expected a topic name without wildcards")
    packet_id = reader.packet_id() if qos else 0
    return Publish(topic=topic, payload=reader.rest(), qos=qos, packet_id=packet_id)


def _subscribe(reader: _Reader) -> Subscribe:
    packet_id = reader.packet_id()

    def one() -> tuple[str, int]:
        topic_filter, qos = reader.text(), reader.byte()
        if qos > MAX_QOS + 1:
            raise FormatError(f"MQTT SUBSCRIBE: expected QoS 0 to 2, found {qos}")
        return topic_filter, min(qos, MAX_QOS)

    return Subscribe(packet_id=packet_id, filters=reader.all(one))


class _Reader:
    """Reads a packet's body from front to back."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._body):
            raise FormatError(f"MQTT packet: {end - len(self._body)} bytes short at offset {self._at}")
        taken, self._at = self._body[self._at : end], end
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def word(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def data(self) -> bytes:
        return self.take(self.word())

    def text(self) -> str:
        try:
            text = self.data().decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(f"MQTT packet: not UTF-8 before offset {self._at}") from error
        if "\0" in text:  # 1.5.3: closes the connection
            raise FormatError(f"MQTT packet: a null character before offset {self._at}")
        return text

    def packet_id(self) -> int:
        number = self.word()
        if number == 0:
            raise FormatError("MQTT packet: packet identifier 0")
        return number

    def rest(self) -> bytes:
        return self.take(len(self._body) - self._at)

    def all(self, one: Callable[[], Item]) -> Sequence[Item]:
        """Read items to the end; at least one, at most :data:`MAX_FILTERS`."""
        items: list[Item] = []
        while self._at < len(self._body) or not items:
            if len(items) == MAX_FILTERS:
                raise FormatError(f"MQTT packet: more than {MAX_FILTERS} topic filters")
            items.append(one())
        return items

    def finish(self) -> None:
        if self._at != len(self._body):
            raise FormatError(f"MQTT packet: {len(self._body) - self._at} bytes too many")


def encode_connack(code: ReturnCode, *, session_present: bool) -> bytes:
    """Return a CONNACK packet (3.2)."""
    return bytes((0x20, 2, int(session_present and code is ReturnCode.ACCEPTED), code))


def encode_puback(packet_id: int) -> bytes:
    """Return a PUBACK packet (3.4)."""
    return struct.pack("!BBH", 0x40, 2, packet_id)


def encode_suback(packet_id: int, codes: Iterable[int]) -> bytes:
    """Return a SUBACK packet with a granted QoS, or 0x80, for each filter (3.9)."""
    return _frame(0x90, struct.pack("!H", packet_id) + bytes(codes))


def encode_unsuback(packet_id: int) -> bytes:
    """Return an UNSUBACK packet (3.11)."""
    return struct.pack("!BBH", 0xB0, 2, packet_id)


def encode_pingresp() -> bytes:
    """Return a PINGRESP packet (3.13)."""
    return b"\xd0\x00"


def encode_publish(topic: str, payload: bytes) -> bytes:
    """Return a PUBLISH packet of QoS 0 (3.3)."""
    name = topic.encode()
    return _frame(0x30, struct.pack("!H", len(name)) + name + payload)


def _frame(first: int, body: bytes) -> bytes:
    header = bytearray((first,))
    length = len(body)
    while True:
        length, digit = length >> 7, length & 0x7F
        header.append(digit | 0x80 if length else digit)
        if not length:
            return bytes(header) + body
