import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_cloud.twin_hub import mqtt_codec as codec
from shared.errors import FormatError

CONNECT = b"\x00\x04MQTT\x04\xc0\x00\x3c" + b"\x00\x03dev" + b"\x00\x06u/dev/" + b"\x00\x02pw"


def packets(data, *, limit=codec.MAX_PACKET):
    return list(codec.PacketBuffer().feed(data, limit=limit))


def test_connect_is_read():
    assert codec.parse(0x10, CONNECT) == codec.Connect(
        client_id="dev", user_name="u/dev/", password=b"pw", clean_session=False, keep_alive=60
    )


def test_will_is_read_over():
    body = b"\x00\x04MQTT\x04\x86\x00\x3c\x00\x03dev\x00\x01t\x00\x01m\x00\x01u"

    packet = codec.parse(0x10, body)

    assert (packet.user_name, packet.password, packet.clean_session) == ("u", None, True)


def test_password_does_not_show():
    assert "pw" not in repr(codec.parse(0x10, CONNECT))


@pytest.mark.parametrize(
    ("first", "body"),
    [
        (0x10, CONNECT[:-1]),
        (0x10, CONNECT + b"x"),
        (0x10, CONNECT.replace(b"\x04\xc0", b"\x05\xc0")),
        (0x10, CONNECT.replace(b"\x04\xc0", b"\x04\xc1")),
        (0x11, CONNECT),
        (0x30, b"\x00\x00"),
        (0x30, b"\x00\x03a/#"),
        (0x32, b"\x00\x01a\x00\x00"),
        (0x34, b"\x00\x01a\x00\x01"),
        (0x36, b"\x00\x01a\x00\x01"),
        (0x80, b"\x00\x01\x00\x01a\x00"),
        (0x82, b"\x00\x01"),
        (0x82, b"\x00\x01\x00\x01a\x03"),
        (0x82, b"\x00\x00\x00\x01a\x00"),
        (0x82, b"\x00\x01" + b"\x00\x01a\x00" * 33),
        (0xA2, b"\x00\x01"),
        (0xC0, b"x"),
        (0x20, b"\x00\x00"),
        (0xF0, b""),
        (0x00, b""),
    ],
)
def test_packet_that_breaks_the_protocol_is_refused(first, body):
    with pytest.raises(FormatError, match="MQTT"):
        codec.parse(first, body)


@given(st.integers(0, 255), st.binary(max_size=200))
def test_parser_raises_format_errors_and_nothing_else(first, body):
    try:
        packet = codec.parse(first, body)
    except FormatError:
        return
    assert isinstance(packet, codec.Packet)


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=5), st.data())
def test_stream_is_cut_into_its_packets_however_it_arrives(sent, data):
    stream = b"".join(codec._frame(first, body) for first, body in sent)
    buffer, received = codec.PacketBuffer(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        received += buffer.feed(stream[:size], limit=codec.MAX_PACKET)
        stream = stream[size:]

    assert received == sent


@given(st.binary(max_size=50))
def test_any_stream_is_cut_or_refused(stream):
    try:
        received = packets(stream, limit=20)
    except FormatError:
        return
    assert all(len(body) <= 20 for _, body in received)
    assert sum(2 + len(body) for _, body in received) <= len(stream)


@pytest.mark.parametrize("length", [0, 127, 128, 16383, 16384, codec.MAX_PACKET])
def test_length_is_written_as_it_is_read(length):
    body = bytes(length)

    assert packets(codec._frame(0x30, body)) == [(0x30, body)]


def test_length_beyond_the_limit_is_refused_before_the_packet_has_come():
    with pytest.raises(FormatError, match="at most 20"):
        packets(b"\x30\x15", limit=20)


def test_length_of_five_bytes_is_refused():
    with pytest.raises(FormatError, match="four bytes"):
        packets(b"\x30\xff\xff\xff\xff")


def test_publish_is_written_as_it_is_read():
    ((first, body),) = packets(codec.encode_publish("$iothub/twin/res/200/?$rid=1", b"{}"))

    packet = codec.parse(first, body)

    assert (packet.topic, packet.payload, packet.qos) == ("$iothub/twin/res/200/?$rid=1", b"{}", 0)


def test_session_is_present_only_for_an_accepted_client():
    assert codec.encode_connack(codec.ReturnCode.ACCEPTED, session_present=True) == b"\x20\x02\x01\x00"
    assert codec.encode_connack(codec.ReturnCode.NOT_AUTHORIZED, session_present=True) == b"\x20\x02\x00\x05"
