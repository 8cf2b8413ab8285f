"""The channel to a Confidential Package Manager: frames over a Unix stream socket.

A frame is a u32 big-endian length and that many bytes of deterministic CBOR (RFC 8949 section 4.2), at most
:data:`MAX_FRAME` bytes, holding one map with text keys. One request, one reply, any number of them on one
connection; what they say is :mod:`shared.wire.cpm_contract`.

File descriptors travel as ``SCM_RIGHTS`` with a frame's first bytes. Those that the reader did not ask for
are closed, and descriptors sent with later bytes never reach the process.

Example:
    >>> with connect("/run/cpm/cpm.sock", timeout=10.0) as cpm:
    ...     cpm.call("ping")["contract"]
    1
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from shared.encoding import decode_cbor, encode_cbor
from shared.errors import FormatError, TransportError
from shared.wire.cpm_contract import read_reply

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

MAX_FRAME = 1 << 20
"""Longest CBOR body of a frame, in bytes."""

MAX_FDS = 3
"""Most file descriptors that a frame may carry: ``run`` passes three."""

DEFAULT_SOCKET = "/run/cpm/cpm.sock"
"""Where clients look if neither an option nor :data:`SOCKET_VARIABLE` says otherwise."""

SOCKET_VARIABLE = "CPM_SOCKET"
"""Environment variable that names the socket for clients."""

_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame as it came in.

    Args:
        message: The CBOR map.
        fds: File descriptors, close-on-exec, owned by the reader, who ends them with :func:`close_fds`.
    """

    message: Mapping[str, object]
    fds: tuple[int, ...] = ()


def close_fds(fds: Iterable[int]) -> None:
    """Close file descriptors, whatever state they are in."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def write_frame(sock: socket.socket, message: Mapping[str, object], fds: Sequence[int] = ()) -> None:
    """Send one frame; file descriptors go with its first bytes.

    Raises:
        FormatError: The message does not fit, or there are too many descriptors; nothing was sent.
        OSError: The connection broke or timed out; it cannot be used any more.
    """
    body = encode_cbor(dict(message))
    if len(body) > MAX_FRAME:
        raise FormatError(f"frame: expected at most {MAX_FRAME} bytes, found {len(body)}")
    if len(fds) > MAX_FDS:
        raise FormatError(f"frame: expected at most {MAX_FDS} file descriptors, found {len(fds)}")
    data = len(body).to_bytes(_LENGTH_BYTES, "big") + body
    sent = socket.send_fds(sock, [data], list(fds)) if fds else 0
    sock.sendall(memoryview(data)[sent:])


def read_frame(
    sock: socket.socket, *, max_fds: int = 0, where: str = "frame", seconds: float | None = None
) -> Frame | None:
    """Receive one frame.

    Args:
        sock: A connected stream socket; its own timeout limits the wait for the first byte.
        max_fds: How many file descriptors may come; with more, all are closed and the frame is refused.
        where: Which frame this is, for messages.
        seconds: Time for the whole frame once its first byte is there; None leaves the socket's own timeout.

    Returns:
        The frame, or None if the peer closed the connection before its first byte.

    Raises:
        FormatError: Not a frame as the module describes it; the stream is out of step and must be closed.
        OSError: The connection broke or timed out.
    """
    head, fds = _read_first_bytes(sock, max_fds, where)
    try:
        if not head:
            return None
        deadline = None if seconds is None else time.monotonic() + seconds
        head += _read_exactly(sock, _LENGTH_BYTES - len(head), deadline, where)
        body = _read_exactly(sock, _parse_length(head, where), deadline, where)
        return Frame(message=_parse_map(body, where), fds=fds)
    except BaseException:
        close_fds(fds)
        raise


def _read_first_bytes(sock: socket.socket, max_fds: int, where: str) -> tuple[bytes, tuple[int, ...]]:
    """Receive the first one to four bytes and what came with them.

    Descriptors that come with later bytes meet a plain ``recv``: the kernel closes them.
    """
    room = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
    head, ancillary, flags, _ = sock.recvmsg(_LENGTH_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    fds = tuple(found)
    if len(fds) > max_fds or flags & socket.MSG_CTRUNC:
        close_fds(fds)
        raise FormatError(f"{where}: expected at most {max_fds} file descriptors, found more")
    return head, fds


def _parse_length(head: bytes, where: str) -> int:
    length = int.from_bytes(head, "big")
    if length > MAX_FRAME:
        raise FormatError(f"{where}: expected at most {MAX_FRAME} bytes, found a length of {length}")
    return length


def _read_exactly(sock: socket.socket, count: int, deadline: float | None, where: str) -> bytes:
    buffer = bytearray(count)
    view = memoryview(buffer)
    before = sock.gettimeout()
    try:
        while view:
            if deadline is not None:
                sock.settimeout(max(deadline - time.monotonic(), 0.001))
            received = sock.recv_into(view)
            if not received:
                raise FormatError(f"{where}: the connection ended {len(view)} bytes before the frame did")
            view = view[received:]
    finally:
        sock.settimeout(before)
    return bytes(buffer)


def _parse_map(body: bytes, where: str) -> dict[str, object]:
    value = decode_cbor(body, where=where)
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise FormatError(f"{where}: expected a map with text keys")
    return value


class CpmConnection:
    """A blocking client; one call at a time.

    Args:
        sock: A connected AF_UNIX stream socket, from now on owned by the connection. Its timeout limits each
            step of a call; an operation on gigabytes wants a long one, or none.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a workload that was started over it ends."""
        self._sock.close()

    def call(
        self, operation: str, arguments: Mapping[str, object] | None = None, *, fds: Sequence[int] = ()
    ) -> dict[str, object]:
        """Ask for one operation and wait for its reply.

        Args:
            operation: A value of :class:`shared.wire.cpm_contract.CpmOperation`.
            arguments: As the contract's table lists them.
            fds: File descriptors to pass; the caller keeps its own.

        Returns:
            The reply's fields without ``ok``.

        Raises:
            EdbError: What the CPM answered, as the branch it belongs to and with its code.
            FormatError: The request does not fit into a frame, or the reply is not one.
            TransportError: ``cpm_unavailable``; the channel broke or timed out, and is closed.
        """
        try:
            reply = self._exchange({"op": operation, **(arguments or {})}, fds)
        except OSError as error:
            self.close()
            reason = error.strerror or type(error).__name__
            raise _unavailable(f"the channel to the cpm broke during {operation}: {reason}") from error
        if reply is None:
            self.close()
            raise _unavailable(f"the cpm closed the connection during {operation}")
        return read_reply(reply)

    def _exchange(self, request: Mapping[str, object], fds: Sequence[int]) -> Mapping[str, object] | None:
        # A CPM that refuses a connection answers and closes it unread: sending fails, its reply is there.
        with contextlib.suppress(BrokenPipeError):
            write_frame(self._sock, request, fds)
        try:
            frame = read_frame(self._sock, where="cpm reply")
        except FormatError:
            self.close()
            raise
        return None if frame is None else frame.message


def connect(path: str, *, timeout: float | None) -> CpmConnection:
    """Connect to the CPM that listens on ``path``.

    Args:
        path: The socket's file name.
        timeout: Seconds to wait in each step of connecting and calling; None waits for good.

    Raises:
        TransportError: ``cpm_unavailable``; nobody listens there, or it may not be reached.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        raise _unavailable(
            f"no cpm at {path}: {reason}", hint="is cpm serve running on this socket"
        ) from error
    return CpmConnection(sock)


def _unavailable(message: str, *, hint: str | None = None) -> TransportError:
    return TransportError(message, code="cpm_unavailable", hint=hint)
