"""The server: one thread a connection, frames in, frames out; a slow or silent client holds up nobody else.

===================== ==============================================================================
a client that         gets
===================== ==============================================================================
is another user       ``peer_denied``, and is closed
sends a bad frame     ``malformed``, and is closed: the stream is out of step
sends a bad request   the error, and may go on
stalls in a frame     closed after :data:`FRAME_SECONDS`
does not read         closed after :data:`FRAME_SECONDS`
is idle               nothing; the one that is idle longest is closed when all places are taken
===================== ==============================================================================
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

from cpm.listener import peer_uid
from shared.errors import (
    EdbError,
    FormatError,
    KeyUnavailable,
    PolicyDenied,
    TransportError,
    VerificationError,
)
from shared.wire.cpm_channel import MAX_FDS, Frame, close_fds, read_frame, write_frame
from shared.wire.cpm_contract import error_reply, parse_request

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from cpm.service import Service

FRAME_SECONDS: Final = 10.0
"""Time for a whole frame from its first byte on, and for each step of sending one."""

MAX_CONNECTIONS: Final = 64
"""Most connections at a time, each with a thread."""

STOP_SECONDS: Final = 5.0
"""How long a stopping server waits for what it is doing; what is cut off leaves the old state."""

_STACK_BYTES = 1 << 20
_REFUSALS = (VerificationError, PolicyDenied, KeyUnavailable)

log = logging.getLogger("cpm")


class Server:
    """Accepts connections until it is stopped.

    Args:
        listener: A listening Unix socket; closed at the end.
        service: Does what is asked.
        allowed_uids: Who may connect.
    """

    def __init__(self, *, listener: socket.socket, service: Service, allowed_uids: Collection[int]) -> None:
        self._listener = listener
        self._service = service
        self._allowed_uids = frozenset(allowed_uids)
        self._connections: dict[socket.socket, _Connection] = {}
        self._lock = threading.Lock()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        threading.stack_size(_STACK_BYTES)

    @property
    def wake_fd(self) -> int:
        """The descriptor that ends :meth:`serve` when anything is written to it; never blocks."""
        return self._wake_write

    def stop(self) -> None:
        """End :meth:`serve` soon; from any thread, and more than once."""
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"\0")

    def serve(self) -> None:
        """Accept and answer until :meth:`stop`, then close everything; workloads are killed."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            while not any(key.fd == self._wake_read for key, _ in selector.select()):
                self._accept()
        self._end_connections()

    def close(self) -> None:
        """Free :attr:`wake_fd`; the last thing that is done with a server."""
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:  # out of descriptors, say: the next one may be luckier
            log.warning("accept", extra={"outcome": "failed", "code": error.strerror})
            return
        sock.settimeout(FRAME_SECONDS)
        connection = _Connection(sock, uid=peer_uid(sock), server=self)
        if connection.uid not in self._allowed_uids:
            connection.refuse(PolicyDenied(f"user {connection.uid} may not use this cpm", code="peer_denied"))
        elif not self._admit(connection):
            connection.refuse(TransportError("the cpm has too many connections", code="cpm_unavailable"))
        else:
            self._start(connection)

    def _start(self, connection: _Connection) -> None:
        try:
            connection.start()
        except RuntimeError:  # the system gives no more threads
            self.leave(connection)
            connection.refuse(TransportError("the cpm has too many connections", code="cpm_unavailable"))

    def _admit(self, connection: _Connection) -> bool:
        """Enter a connection, closing the one that is idle longest if there is no place left."""
        with self._lock:
            if len(self._connections) >= MAX_CONNECTIONS:
                idle = [one for one in self._connections.values() if one.idle_since is not None]
                if not idle:
                    return False
                oldest = min(idle, key=lambda one: one.idle_since or 0.0)
                del self._connections[oldest.sock]
                oldest.shut()
            self._connections[connection.sock] = connection
            return True

    def leave(self, connection: _Connection) -> None:
        """Forget a connection that ended."""
        with self._lock:
            self._connections.pop(connection.sock, None)

    def answer(self, frame: Frame, connection: _Connection) -> Mapping[str, object]:
        """Return the reply to a frame, and log what became of it: never its arguments."""
        started = time.monotonic()
        operation, outcome, code = "unknown", "ok", None
        try:
            request = parse_request(frame.message, fds=len(frame.fds))
            operation = request.operation.value
            fields = self._service.handle(request, fds=frame.fds, client=connection.sock.fileno())
        except EdbError as error:
            outcome, code = "refused" if isinstance(error, _REFUSALS) else "failed", error.code
            return error_reply(error)
        except Exception as error:  # noqa: BLE001 - the outermost loop of a connection's thread
            outcome, code = "failed", "internal"
            log.error("defect", extra={"error": type(error).__name__, "where": _innermost_line()})  # noqa: TRY400 - a message may hold what a log must not
            return error_reply(EdbError("the cpm failed; its log says where"))
        else:
            return {"ok": True, **fields}
        finally:
            log.info(
                "operation",
                extra={
                    "op": operation,
                    "outcome": outcome,
                    "code": code,
                    "duration_ms": round((time.monotonic() - started) * 1000, 1),
                    "peer_uid": connection.uid,
                },
            )

    def _end_connections(self) -> None:
        self._listener.close()
        with self._lock:
            remaining = list(self._connections.values())
        for connection in remaining:
            connection.shut()
        deadline = time.monotonic() + STOP_SECONDS
        for connection in remaining:
            connection.join(max(0.0, deadline - time.monotonic()))


class _Connection:
    """One client.

    Args:
        sock: Its socket.
        uid: Its user.
        server: Whom it belongs to.
    """

    def __init__(self, sock: socket.socket, *, uid: int, server: Server) -> None:
        self.sock = sock
        self.uid = uid
        self.idle_since: float | None = time.monotonic()
        self._server = server
        self._thread = threading.Thread(target=self._converse, name="client", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def shut(self) -> None:
        """End the conversation from another thread; a workload of this client is killed by it."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def refuse(self, error: EdbError) -> None:
        """Answer before anything was asked, and close."""
        log.info("connection", extra={"outcome": "refused", "code": error.code, "peer_uid": self.uid})
        with self.sock, contextlib.suppress(OSError):
            self.sock.setblocking(False)  # one frame fits into an empty socket buffer
            write_frame(self.sock, error_reply(error))

    def _converse(self) -> None:
        try:
            with self.sock:
                while self._exchange():
                    self.idle_since = time.monotonic()
        except OSError:
            pass  # the client went away, stalled, or was shut out
        finally:
            self._server.leave(self)

    def _exchange(self) -> bool:
        """Answer one request; return whether there may be another."""
        self.sock.settimeout(None)
        try:
            frame = read_frame(self.sock, max_fds=MAX_FDS, where="request", seconds=FRAME_SECONDS)
        except FormatError as error:
            self.refuse(error)
            return False
        if frame is None:
            return False
        self.idle_since = None
        try:
            reply = self._server.answer(frame, self)
        finally:
            close_fds(frame.fds)
        self.sock.settimeout(FRAME_SECONDS)
        try:
            write_frame(self.sock, reply)
        except FormatError as error:  # a reply that is longer than a frame
            write_frame(self.sock, error_reply(error))
        return True


def _innermost_line() -> str:
    """Return where the current exception was raised, as file and line: no values, no message."""
    trace = sys.exc_info()[2]
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
