"""The CPM channel: frames, passed descriptors, the contract's table, errors that stay what they were."""

import os
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.encoding import encode_cbor
from shared.errors import (
    Conflict,
    EdbError,
    FormatError,
    KeyUnavailable,
    NotFound,
    PolicyDenied,
    StorageError,
    TransportError,
    VerificationError,
)
from shared.wire.cpm_channel import (
    MAX_FRAME,
    CpmConnection,
    close_fds,
    connect,
    read_frame,
    write_frame,
)
from shared.wire.cpm_contract import (
    SIGNATURES,
    ArgumentKind,
    CpmOperation,
    error_reply,
    parse_request,
    read_reply,
)


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.settimeout(30)
    with ours, theirs:
        yield ours, theirs


def _open_fds():
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def _frame(message):
    body = encode_cbor(message)
    return len(body).to_bytes(4, "big") + body


def test_frame_comes_back(pair):
    ours, theirs = pair

    write_frame(ours, {"op": "status", "data": b"\0" * 1000})

    assert read_frame(theirs).message == {"op": "status", "data": b"\0" * 1000}


def test_frame_that_arrives_byte_by_byte_is_read(pair):
    ours, theirs = pair

    def drip():
        for byte in _frame({"op": "ping"}):
            ours.send(bytes([byte]))

    thread = threading.Thread(target=drip)
    thread.start()

    assert read_frame(theirs).message == {"op": "ping"}
    thread.join()


def test_bytes_on_the_wire_are_a_u32_length_and_cbor(pair):
    ours, theirs = pair

    write_frame(ours, {"op": "ping"})

    assert theirs.recv(100) == bytes.fromhex("00000009 a1 626f70 6470696e67")


def test_closed_connection_is_no_frame(pair):
    ours, theirs = pair
    ours.close()

    assert read_frame(theirs) is None


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"\xff\xff\xff\xff", "found a length of 4294967295"),
        ((MAX_FRAME + 1).to_bytes(4, "big"), "at most 1048576"),
        (b"\0\0", "ended 2 bytes before"),
        (b"\0\0\0\x0a\xa1", "ended 9 bytes before"),
        (b"\0\0\0\0", "not CBOR"),
        (b"\0\0\0\x01\x01", "a map with text keys"),
        (b"\0\0\0\x03\xa1\x01\x02", "a map with text keys"),
        (b"\0\0\0\x05\xa1\x61a\x01\x02", "after the CBOR item"),
        (b"\0\0\0\x05\xa1\x61a\x18\x01", "not deterministically encoded"),
    ],
)
def test_garbage_is_a_format_error(pair, data, shown):
    ours, theirs = pair
    ours.sendall(data)
    ours.shutdown(socket.SHUT_WR)

    with pytest.raises(FormatError, match=shown):
        read_frame(theirs, where="request")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_a_format_error(data):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        try:
            frame = read_frame(theirs)
        except FormatError:
            return
        assert frame is None or all(isinstance(name, str) for name in frame.message)


def test_message_that_does_not_fit_is_not_sent(pair):
    ours, theirs = pair

    with pytest.raises(FormatError, match="at most 1048576"):
        write_frame(ours, {"data": bytes(MAX_FRAME)})

    ours.close()
    assert read_frame(theirs) is None


def test_stalled_frame_times_out(pair):
    ours, theirs = pair
    ours.sendall(b"\0\0\0\x09\xa1")

    with pytest.raises(TimeoutError):
        read_frame(theirs, seconds=0.01)

    assert theirs.gettimeout() == 30


# ── descriptors ───────────────────────────────────────────────────────────────────────────────────────────


def test_descriptors_arrive_close_on_exec(pair):
    ours, theirs = pair
    read, write = os.pipe()

    write_frame(ours, {"op": "install"}, fds=[write])
    frame = read_frame(theirs, max_fds=3)

    assert len(frame.fds) == 1
    assert not os.get_inheritable(frame.fds[0])
    os.write(frame.fds[0], b"through")
    assert os.read(read, 10) == b"through"
    close_fds((*frame.fds, read, write))


@pytest.mark.parametrize(("sent", "wanted"), [(1, 0), (2, 1), (4, 3), (200, 3)])
def test_descriptors_beyond_what_is_wanted_are_closed_and_refuse_the_frame(pair, sent, wanted):
    ours, theirs = pair
    null = os.open("/dev/null", os.O_RDONLY)
    socket.send_fds(ours, [_frame({"op": "ping"})], [null] * sent)
    before = _open_fds()

    with pytest.raises(FormatError, match="file descriptors"):
        read_frame(theirs, max_fds=wanted)

    assert _open_fds() == before
    os.close(null)


def test_descriptors_that_come_with_later_bytes_never_arrive(pair):
    ours, theirs = pair
    data = _frame({"op": "ping"})
    null = os.open("/dev/null", os.O_RDONLY)
    ours.sendall(data[:5])
    socket.send_fds(ours, [data[5:]], [null])
    before = _open_fds()

    frame = read_frame(theirs, max_fds=3)

    assert frame.fds == ()
    assert _open_fds() == before
    os.close(null)


def test_descriptors_of_a_garbage_frame_are_closed(pair):
    ours, theirs = pair
    null = os.open("/dev/null", os.O_RDONLY)
    socket.send_fds(ours, [b"\0\0\0\x01\x01"], [null])
    before = _open_fds()

    with pytest.raises(FormatError):
        read_frame(theirs, max_fds=3)

    assert _open_fds() == before
    os.close(null)


def test_too_many_descriptors_are_not_sent(pair):
    ours, _theirs = pair

    with pytest.raises(FormatError, match="at most 3"):
        write_frame(ours, {"op": "ping"}, fds=[0, 1, 2, 0])


# ── the contract's table ──────────────────────────────────────────────────────────────────────────────────

GOOD = {
    ArgumentKind.TEXT: "text",
    ArgumentKind.BYTES: b"bytes",
    ArgumentKind.TEXTS: ["a", ""],
    ArgumentKind.BYTES_BY_NAME: {"name": b"bytes"},
}
BAD = {
    ArgumentKind.TEXT: [b"text", 1, None, "x" * 4097],
    ArgumentKind.BYTES: ["bytes", 1, None],
    ArgumentKind.TEXTS: ["a", [1], [b"a"], {}],
    ArgumentKind.BYTES_BY_NAME: [{"a": "b"}, {b"a": b"b"}, {1: b"b"}, [], b""],
}


@pytest.mark.parametrize("operation", CpmOperation)
def test_request_with_the_tables_arguments_is_taken(operation):
    signature = SIGNATURES[operation]
    arguments = {name: GOOD[kind] for name, kind in signature.arguments.items()}

    request = parse_request({"op": operation.value, **arguments}, fds=signature.fds)

    assert (request.operation, request.arguments) == (operation, arguments)


@pytest.mark.parametrize("operation", CpmOperation)
def test_request_with_anything_else_is_refused(operation):
    signature = SIGNATURES[operation]
    good = {"op": operation.value, **{name: GOOD[kind] for name, kind in signature.arguments.items()}}
    wrong = [({**good, "more": 1}, signature.fds), (good, signature.fds + 1)]
    for name, kind in signature.arguments.items():
        wrong.append(({key: value for key, value in good.items() if key != name}, signature.fds))
        wrong += [({**good, name: value}, signature.fds) for value in BAD[kind]]

    for message, fds in wrong:
        with pytest.raises(FormatError) as refused:
            parse_request(message, fds=fds)
        assert refused.value.code == "request_invalid"


@pytest.mark.parametrize("name", ["begin_application_deployment", "", "PING", None, 1, [], {"a": 1}])
def test_unknown_operation_is_named(name):
    with pytest.raises(FormatError) as refused:
        parse_request({"op": name}, fds=0)

    assert refused.value.code == "unsupported_operation"


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────

BRANCHES = [
    FormatError,
    VerificationError,
    PolicyDenied,
    KeyUnavailable,
    Conflict,
    NotFound,
    TransportError,
    StorageError,
    EdbError,
]


@pytest.mark.parametrize("branch", BRANCHES)
def test_error_comes_back_as_what_it_was(branch):
    error = branch("what failed", code="some_code_of_its_own", hint="what to do")

    with pytest.raises(EdbError) as raised:
        read_reply(error_reply(error))

    assert type(raised.value) is branch
    assert (str(raised.value), raised.value.code, raised.value.hint) == (
        "what failed",
        "some_code_of_its_own",
        "what to do",
    )


@pytest.mark.parametrize(
    ("code", "branch"),
    [
        ("replay", VerificationError),
        ("rollback", VerificationError),
        ("unwrap_failed", VerificationError),
        ("key_revoked", KeyUnavailable),
        ("storage_full", StorageError),
        ("unsupported_operation", FormatError),
        ("cpm_unavailable", TransportError),
        ("something_new", EdbError),
    ],
)
def test_error_without_a_kind_is_understood_by_its_code(code, branch):
    with pytest.raises(EdbError) as raised:
        read_reply({"ok": False, "code": code, "message": "m"})

    assert type(raised.value) is branch


@pytest.mark.parametrize("reply", [{}, {"ok": 1}, {"ok": False}, {"ok": False, "code": 1, "message": "m"}])
def test_reply_that_is_neither_is_a_format_error(reply):
    with pytest.raises(FormatError, match="cpm reply"):
        read_reply(reply)


# ── the client ────────────────────────────────────────────────────────────────────────────────────────────


def _answer(sock, reply):
    def serve():
        frame = read_frame(sock, max_fds=3)
        close_fds(frame.fds)
        write_frame(sock, reply)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_call_sends_the_operation_and_returns_the_fields(pair):
    ours, theirs = pair
    thread = _answer(theirs, {"ok": True, "contract": 1})

    assert CpmConnection(ours).call("ping") == {"contract": 1}
    thread.join()


def test_calls_follow_each_other_on_one_connection_even_after_an_error(pair):
    ours, theirs = pair
    cpm = CpmConnection(ours)
    thread = _answer(theirs, {"ok": False, "code": "not_found", "message": "m"})
    with pytest.raises(NotFound):
        cpm.call("uninstall", {"cp_id": "x"})
    thread.join()

    thread = _answer(theirs, {"ok": True})

    assert cpm.call("ping") == {}
    thread.join()


def test_peer_that_hangs_up_is_unavailable(pair):
    ours, theirs = pair
    theirs.close()

    with pytest.raises(TransportError) as refused:
        CpmConnection(ours).call("ping")

    assert refused.value.code == "cpm_unavailable"


def test_peer_that_answers_before_it_hangs_up_is_heard(pair):
    ours, theirs = pair
    write_frame(theirs, error_reply(PolicyDenied("not you", code="peer_denied")))
    theirs.close()

    with pytest.raises(PolicyDenied, match="not you"):
        CpmConnection(ours).call("ping")


def test_silent_peer_is_unavailable_and_its_late_answer_is_never_taken_for_another(pair):
    ours, theirs = pair
    ours.settimeout(0.01)
    cpm = CpmConnection(ours)
    with pytest.raises(TransportError):
        cpm.call("status")
    with pytest.raises(BrokenPipeError):
        write_frame(theirs, {"ok": True, "late": 1})

    with pytest.raises(TransportError):
        cpm.call("ping")


@pytest.mark.parametrize("name", ["missing.sock", "x" * 200])
def test_socket_that_nobody_listens_on_is_unavailable(tmp_path, name):
    with pytest.raises(TransportError) as refused:
        connect(str(tmp_path / name), timeout=1)

    assert refused.value.code == "cpm_unavailable"
    assert name in str(refused.value)
